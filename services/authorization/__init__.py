"""Authorization requests and codes: where the browser starts, and what the identity server asks for."""
