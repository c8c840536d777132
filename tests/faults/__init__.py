"""The kill matrix: the system in separate processes, killed at labelled points under load, and judged from outside."""
