"""Several processes of one service on one port: a parent starts workers, watches them, and replaces them."""
