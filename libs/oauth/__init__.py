"""OAuth 2.0 as decisions: no I/O and no clock; time and randomness arrive as arguments."""
