"""Reads API definitions, Tyk OAS and Tyk Classic: bytes in, a contract out."""
