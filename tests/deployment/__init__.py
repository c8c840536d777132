"""The deployment: compose.yaml, the edge and the broker's definitions, checked against the code and real servers."""
