"""Run the revocation service: `python -m services.revocation`."""

from libs.runtime import main
from services.revocation.app import create_app
from services.revocation.settings import RevocationSettings

if __name__ == "__main__":
    main("revocation", "Revoke tokens and grants.", RevocationSettings, create_app)
