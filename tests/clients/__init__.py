"""Client libraries as they are published, unchanged, against the running system."""
