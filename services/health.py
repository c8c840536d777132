"""Ask a service whether it is well, from the outside and with nothing but Python: what a container's health check runs.

python -m services.health http://127.0.0.1:8080/readyz
"""

import http.client
import sys
from urllib.parse import urlsplit

WITHIN = 3.0
"""Seconds the service gets to answer."""


def complaint(url: str) -> str | None:
    """None when the answer is 200, else one line that says what it was instead."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=WITHIN)
    try:
        connection.request("GET", parts.path or "/", headers={"Connection": "close"})
        response = connection.getresponse()
        answer = response.read(1000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"{url}: {error or type(error).__name__}"
    finally:
        connection.close()
    return None if response.status == 200 else f"{url}: {response.status} {answer}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m services.health URL")
    sys.exit(complaint(sys.argv[1]))
