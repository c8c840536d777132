"""Real servers for the tests, found or started: MongoDB, RabbitMQ, nginx. Nothing is skipped for want of one."""


class CannotProvide(Exception):
    """A server the tests need cannot be had here; the text is one line that says how to provide it."""
