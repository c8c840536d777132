"""Run the gateway: `python -m services.gateway`."""

from libs.runtime import main
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings

if __name__ == "__main__":
    main("gateway", "Check tokens at the protected API.", GatewaySettings, create_app)
