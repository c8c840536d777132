"""What follows from the contracts, written down: OpenAPI, AsyncAPI and JSON Schema documents. A command, no library."""
