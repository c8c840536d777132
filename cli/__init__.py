"""The command line: `tokenwire …` talks to the management API, and starts the services and their commands."""
