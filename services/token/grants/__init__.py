"""The grant handlers, one file for each `grant_type`. docs/contributing/adding-a-grant.md explains how to add one."""
