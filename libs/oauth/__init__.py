"""The rules of OAuth 2.0 as pure functions: no I/O and no clock; time and randomness are arguments."""
