"""Connecting to the broker."""

from typing import Any

import aio_pika
import pytest
from yarl import URL

from libs.bus.rabbit import connection as module
from tests.ports import free_port


async def test_a_failed_attempt_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector has nothing to close: that would have to happen in the event loop, and does not always."""
    made: list[aio_pika.Connection] = []

    class Recorded(aio_pika.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(module, "Connection", Recorded)
    with pytest.raises(ConnectionError):
        await module.open_connection(URL(f"amqp://127.0.0.1:{free_port()}/"), 5)
    assert [each.is_closed for each in made] == [True]


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        pytest.param("amqp://u:p@a:5672/", ["a"], id="one"),
        pytest.param("amqp://u:p@a/,amqps://u:p@b/", ["a", "b"], id="two"),
        pytest.param(" amqp://u:p@a/ , amqp://u:p@b/,amqp://u:p@c/ ", ["a", "b", "c"], id="spaces"),
        pytest.param("amqp://u:p,q@a/,amqp://u:p,q@b/", ["a", "b"], id="comma-in-password"),
    ],
)
def test_a_cluster_has_a_url_for_each_node(text: str, hosts: list[str]) -> None:
    """Commas separate URLs, but not the parts of a password."""
    assert [url.host for url in module.parse_amqp_urls(text)] == hosts


@pytest.mark.parametrize("text", ["", "amqp://", "amqp://u:p@a,b/", "amqp://u:p@a/,b:5672"])
def test_what_is_no_list_of_urls_is_refused_without_quoting_it(text: str) -> None:
    """Hosts without their own URL, as MongoDB has them, are refused; the text has no password in it."""
    with pytest.raises(ValueError, match="a complete URL for each node") as refusal:
        module.parse_amqp_urls(text)
    assert "u:p" not in str(refusal.value)


async def test_without_any_node_every_reason_is_given() -> None:
    """The error says what is wrong with each node."""
    ports = free_port(), free_port()
    with pytest.raises(module.ConnectFailed) as failure:
        await module.open_first([URL(f"amqp://127.0.0.1:{port}/") for port in ports], 5)
    assert all(f"127.0.0.1:{port}: Connection refused" in str(failure.value) for port in ports)
