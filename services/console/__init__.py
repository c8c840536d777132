"""The console: the web pages for operators. An HTTP client of the other services; it has no records of its own."""
