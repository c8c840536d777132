"""Token revocation (RFC 7009): by the client, by an operator, and after a client or an API was deleted."""
