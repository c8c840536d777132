"""The kill matrix: the system in separate processes, killed at labelled places under load, and judged from outside."""
