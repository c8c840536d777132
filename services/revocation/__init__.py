"""Ending tokens and grants: by their client, by an operator, and in reaction to what was deleted."""
