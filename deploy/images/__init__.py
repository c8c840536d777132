"""The images that compose.yaml names, on a machine with a Docker engine: pulled, or built from Debian's packages."""


class CannotProvide(Exception):
    """Something that the stack needs is missing; the one-line text says how to provide it."""
