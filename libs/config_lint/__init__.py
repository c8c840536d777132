"""The config lint: finds insecure settings and records, and says how to fix them. Here is what concerns records."""
