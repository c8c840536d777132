"""Ports nobody listens on."""

import socket


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago; taken at once, it stays ours in practice."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """That many different free ports."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
