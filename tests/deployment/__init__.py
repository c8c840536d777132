"""The deployment: what compose.yaml, the edge and the broker's definitions promise, against code and real servers."""
