"""Outgoing requests to webhook endpoints and upstreams: connector, name resolution, SSRF guard, signatures, excerpts."""
