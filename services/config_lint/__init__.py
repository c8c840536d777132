"""Config lint (`python -m services config-lint`): finds insecure settings and records, and says how to fix them."""
