"""Tokens for codes, credentials, passwords and refresh tokens."""
