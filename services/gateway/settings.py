"""Settings of the gateway."""

from libs.settings import Settings


class GatewaySettings(Settings):
    """What the gateway needs: the common settings."""
