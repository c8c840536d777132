"""Programs around Tokenwire, each one file to copy; they know its HTTP surface and its exchange, never its code."""
