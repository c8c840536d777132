"""Attacks that must fail, races, crashes, and RFC conformance."""
