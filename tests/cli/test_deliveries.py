"""`tokenwire deliveries`: webhooks, their attempts, and sending them again."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.operators import Permission
from contracts.webhooks import DeliveryState
from tests.builders import make_operator
from tests.cli.conftest import CommandLine
from tests.notifications import (
    Notifier,
    Receiver,
    answering,
    api_to,
    database_of_its_own,
    notifier,
    receiver,
    token_event,
)


@pytest.fixture(name="received")
async def _received() -> AsyncIterator[Receiver]:
    async with receiver() as received:
        yield received


@pytest.fixture(name="sender")
async def _sender(mongodb_url: str) -> AsyncIterator[Notifier]:
    async with notifier(mongodb_url, database_of_its_own()) as sender:
        yield sender


@pytest.fixture(name="tokenwire")
async def _tokenwire(sender: Notifier, tmp_path: Path) -> CommandLine:
    key = await make_operator(sender.deps, Permission.ADMIN)
    url = str(sender.anybody.http.make_url("/")).rstrip("/")
    return CommandLine(tmp_path, {"TOKENWIRE_URL": url, "TOKENWIRE_OPERATOR_KEY": key})


async def test_e8_deliveries_are_listed_shown_and_sent_again(
    tokenwire: CommandLine, sender: Notifier, received: Receiver
) -> None:
    """What failed is found by its state and sent again; what was delivered only with --force."""
    received.behave(answering(410))
    api = await api_to(sender.deps, received.url())
    event = token_event(api)
    await sender.publish(event)
    failed = await sender.reached(event.id, DeliveryState.EXHAUSTED)
    of_api = ("--api", api.api_id)
    (listed,) = (await tokenwire("deliveries", "list", *of_api, "--state", "exhausted", "--json")).json
    assert listed["id"] == failed.delivery_id
    table = await tokenwire("deliveries", "list", *of_api, COLUMNS="80")
    assert (failed.delivery_id in table.out, "410" in table.out) == (True, True), table.out
    assert (await tokenwire("deliveries", "list", *of_api, "--until", "1d", "--json")).json == []
    assert (await tokenwire("deliveries", "show", event.id)).json["attempts"][0]["status"] == 410

    received.behave(answering(204))
    assert (await tokenwire("deliveries", "resend", event.id)).out == "the delivery is due now\n"
    await sender.reached(event.id, DeliveryState.DELIVERED)
    again = await tokenwire("deliveries", "resend", event.id)
    assert (again.status, "HTTP 409" in again.err) == (1, True), again.err
    assert (await tokenwire("deliveries", "resend", event.id, "--force")).status == 0
    unknown = await tokenwire("deliveries", "show", "evt_0")
    assert (unknown.status, "HTTP 404" in unknown.err) == (1, True), unknown.err


async def test_e1_endpoints_are_listed_with_what_waits_for_them(
    tokenwire: CommandLine, sender: Notifier, received: Receiver
) -> None:
    """How many attempts were accepted, as a table or JSON."""
    received.behave(answering(204))
    api = await api_to(sender.deps, received.url())
    event = token_event(api)
    await sender.publish(event)
    await sender.reached(event.id, DeliveryState.DELIVERED)
    (listed,) = (await tokenwire("deliveries", "endpoints", "--api", api.api_id, "--json")).json
    assert (listed["accepted"], listed["backlog"]) == (1, 0)
    table = await tokenwire("deliveries", "endpoints", "--api", api.api_id)
    assert ("1 of 1" in table.out, received.url() in table.out) == (True, True), table.out


async def test_e8_all_failed_deliveries_of_an_api_are_sent_again(
    tokenwire: CommandLine, sender: Notifier, received: Receiver
) -> None:
    """Since a time, after a question; it says how many."""
    received.behave(answering(410))
    api = await api_to(sender.deps, received.url())
    events = [token_event(api), token_event(api)]
    await sender.publish(*events)
    for event in events:
        await sender.reached(event.id, DeliveryState.EXHAUSTED)
    asked = await tokenwire("deliveries", "resend-failed", "--api", api.api_id, given="n\n")
    assert asked.status == 1
    done = await tokenwire("deliveries", "resend-failed", "--api", api.api_id, "--since", "2h", "--yes", "--json")
    assert (done.status, done.json["Meta"]) == (0, {"count": 2}), done.err


async def test_e8_a_test_webhook_tells_the_truth(tokenwire: CommandLine, sender: Notifier, received: Receiver) -> None:
    """Status 0 if it arrived, 1 if not, with what the endpoint answered."""
    api = await api_to(sender.deps, received.url())
    received.behave(answering(204))
    good = await tokenwire("deliveries", "test", api.api_id)
    assert (good.status, "delivered: the endpoint responded with 204" in good.out) == (0, True), good.err
    received.behave(answering(500))
    bad = await tokenwire("deliveries", "test", api.api_id)
    assert (bad.status, "500" in bad.out) == (1, True), bad.out + bad.err
