"""MongoDB, and nothing else knows of it: contract models go in and come out, each method is one atomic transition."""
