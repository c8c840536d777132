"""The authorization endpoint, authorization codes for identity servers, and the server metadata."""
