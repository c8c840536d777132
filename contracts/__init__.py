"""The words that cross a process border: pydantic models, nothing else. `make contracts` writes what follows from them."""
