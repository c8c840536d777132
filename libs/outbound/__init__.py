"""Outgoing requests, to webhook endpoints and upstreams: connector, resolver, SSRF guard, signatures, excerpts."""
