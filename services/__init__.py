"""The six services; each runs alone (`python -m services.<name>`) or with the others (`python -m services`)."""
