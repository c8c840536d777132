"""Real servers for the tests, found or started: MongoDB, RabbitMQ, nginx. Without one, tests fail rather than being
skipped.
"""


class CannotProvide(Exception):
    """A server that the tests need is not available; the one-line text says how to provide it."""
