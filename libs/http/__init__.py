"""HTTP as all services speak it: one reader of bodies, one renderer of errors, one access line."""
