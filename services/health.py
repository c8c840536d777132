"""Health check of a container: asks a service whether it is ready, with Python's standard library alone.

python -m services.health [--wait=SECONDS] http://127.0.0.1:8080/readyz

Status 0 for 200, with the response on standard output if the service is degraded;
1 and one line on standard error otherwise. With `--wait` it asks again until 200 or the end of that time.
"""

import socket
import sys
import time

WITHIN = 3.0
"""Seconds the service has to respond."""
AGAIN_AFTER = 0.2
WAIT = "--wait="


def ask(url: str) -> tuple[bool, str]:
    """Whether the status is 200, and the response in one line."""
    # A bare socket: importing http.client takes longer than the whole check, which runs every few seconds.
    address, _, path = url.removeprefix("http://").partition("/")
    host, _, port = address.partition(":")
    request = f"GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((host, int(port or 80)), timeout=WITHIN) as connection:
            connection.sendall(request.encode())
            response = b"".join(iter(lambda: connection.recv(4096), b"")).decode(errors="replace")
    except (OSError, ValueError) as error:
        return False, f"{url}: {error or type(error).__name__}"
    head, _, body = response.partition("\r\n\r\n")
    status = head.split(" ")[1] if head.startswith("HTTP/1.") else "not HTTP"
    return status == "200", f"{url}: {status} {body[:1000]}"


def main(url: str, wait: float) -> None:
    """Print what is wrong, if anything, and exit with the status."""
    deadline = time.monotonic() + wait
    healthy, line = ask(url)
    while not healthy and time.monotonic() < deadline:
        time.sleep(AGAIN_AFTER)
        healthy, line = ask(url)
    if not healthy:
        sys.exit(line)
    if '"degraded"' in line:
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    *options, address = sys.argv[1:] or [""]
    try:
        (seconds,) = [float(option.removeprefix(WAIT)) for option in options if option.startswith(WAIT)] or [0.0]
    except ValueError:
        address = ""
    if not address or address.startswith("-") or any(not option.startswith(WAIT) for option in options):
        sys.exit(f"usage: python -m services.health [{WAIT}SECONDS] URL")
    main(address, seconds)
