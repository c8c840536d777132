"""Reads API definitions in the formats Tyk OAS and Tyk Classic into contracts.apis.Api."""
