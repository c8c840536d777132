"""Run the notifier: `python -m services.notifier`."""

from libs.runtime import main
from services.notifier.app import create_app
from services.notifier.settings import NotifierSettings

if __name__ == "__main__":
    main("notifier", "Deliver webhooks.", NotifierSettings, create_app)
