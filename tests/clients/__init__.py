"""Published client libraries, unmodified, against the running system."""
