"""Run the token service: `python -m services.token`."""

from libs.runtime import main
from services.token.app import create_app
from services.token.settings import TokenSettings

if __name__ == "__main__":
    main(
        "token", "Issue tokens for codes, client credentials, passwords and refresh tokens.", TokenSettings, create_app
    )
