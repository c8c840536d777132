"""The kill matrix: the whole system in separate processes, killed at labelled places, under load, and judged from outside."""
