"""Run the management service: `python -m services.management`."""

from libs.runtime import main
from services.management.app import create_app
from services.management.settings import ManagementSettings

if __name__ == "__main__":
    main("management", "Register APIs, clients, policies, users and operators.", ManagementSettings, create_app)
