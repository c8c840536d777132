"""The token endpoint: issues tokens for authorization codes, client credentials, passwords and refresh tokens."""
