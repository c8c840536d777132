"""Config lint (`python -m services config-lint`): checks the settings, and the records by libs/config_lint."""
