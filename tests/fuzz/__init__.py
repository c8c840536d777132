"""Fuzzing with hypothesis and schemathesis: generated requests, definitions, events and responses. Fails on any 5xx or
unhandled exception.
"""
