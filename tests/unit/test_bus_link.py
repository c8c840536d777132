"""Connecting to the broker."""

from typing import Any

import pytest
from yarl import URL

from libs.bus.rabbit import link
from libs.bus.rabbit.arrivals import TakingConnection
from tests.ports import free_port


async def test_an_attempt_that_fails_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds it as garbage has nothing to close: it would have to be done in the loop, and is not always."""
    made: list[TakingConnection] = []

    class Recorded(TakingConnection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(link, "TakingConnection", Recorded)
    with pytest.raises(ConnectionError):
        await link.connected(URL(f"amqp://127.0.0.1:{free_port()}/"), 5)
    assert [connection.is_closed for connection in made] == [True]
