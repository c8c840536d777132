"""The words that cross a process border: pydantic models, nothing else. What follows from them is generated."""

VERSION = "1.0.0"
"""Of these words, not of the program: the second number counts additions; nothing else happens to them."""
