"""Run the authorization service: `python -m services.authorization`."""

from libs.runtime import main
from services.authorization.app import create_app
from services.authorization.settings import AuthorizationSettings

if __name__ == "__main__":
    main("authorization", "Start authorizations and issue codes.", AuthorizationSettings, create_app)
