"""The container stack of compose.yaml, unedited, on a Docker engine: `make test-compose`."""
