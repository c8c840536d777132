"""Example programs around Tokenwire. Each is one file to copy; they use only its HTTP API and its event exchange."""
