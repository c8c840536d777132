"""`python -m services audit`: which settings and records are weak, what follows from each, and what to do."""
