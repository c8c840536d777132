"""The token check at the protected API."""
