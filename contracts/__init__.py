"""The words that cross a process border: pydantic models, nothing else. What follows from them is generated."""
