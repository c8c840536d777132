"""Run the console: `python -m services.console`."""

from libs.runtime import main
from services.console.app import create_app
from services.console.settings import ConsoleSettings

if __name__ == "__main__":
    main("console", "Serve the web console.", ConsoleSettings, create_app)
