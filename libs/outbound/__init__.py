"""Outgoing connections to webhook endpoints and to upstreams: connector, name resolution, SSRF guard."""
