"""Consumers handle, retry or dead-letter any event and command."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.bus.local import LocalBus
from libs.bus.port import Delivery, Drop, Exchange, Message, Retry, Subscription
from libs.bus.topics import matches
from services.management.stream_subscribers import EventFilter, StreamedEvent, StreamSubscriber, StreamSubscribers
from tests.builders import make_policy, settle
from tests.fuzz.extent import examples
from tests.fuzz.strange import NESTED, bytes_like, documents_like, json_bytes, pieces, texts_like
from tests.notifications import api_to, database_of_its_own, notifier, receiver, token_event
from tests.services.system import PASSWORD, System, open_system
from tests.services.test_consumers_twice import TESTED, Bus


@dataclass
class Consumers:
    """All consumers of all six services, and the messages of every kind."""

    subscriptions: list[Subscription] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def of(self, message: Message) -> list[Subscription]:
        """The consumers that get a message with this routing key."""
        return [each for each in self.subscriptions if any(matches(key, message.key) for key in each.keys)]


@pytest.fixture(scope="module", name="consumers")
async def _consumers(mongodb_url: str) -> AsyncIterator[Consumers]:
    consumers, bus = Consumers(), Bus()
    database = database_of_its_own()
    async with (
        receiver() as endpoint,
        open_system(mongodb_url, database, bus=bus, notifier=False) as system,
        notifier(mongodb_url, database) as running,
    ):
        await use_everything(system)
        await settle(system.deps)
        command = token_event(await api_to(running.deps, endpoint.url())).message
        consumers.messages = [*bus.published, command]
        assert isinstance(running.deps.bus, LocalBus)
        taking = [consumer.subscription for consumer in running.deps.bus._consumers]
        ours = [each for each in (*bus.subscriptions.values(), *taking) if not each.name.startswith("heard")]
        assert {each.name for each in ours} == TESTED
        consumers.subscriptions = ours
        yield consumers


async def use_everything(system: System) -> None:
    """Cause events of nearly every type."""
    party, gone, user = await system.party(), await system.party(), await system.user()
    tokens = await party.tokens(subject="alice")
    tokens = await party.refreshed(tokens.refresh)
    await party.password(user.username, PASSWORD)
    assert (await party.revoke(tokens.access)).status == 200
    await make_policy(system.deps, party.api.api_id)
    for method, path in (
        ("POST", f"/api/apis/oauth/{party.id}/revoke_all"),
        ("DELETE", f"/api/apis/oauth/{party.api.api_id}/{party.id}"),
        ("DELETE", f"/api/apis/{gone.api.api_id}"),
    ):
        assert (await system.operator(method, path)).status == 200


async def handled(consumer: Subscription, message: Message) -> None:
    """The handler must return, retry or drop."""
    with suppress(Drop, Retry):
        await consumer.handler(Delivery(message, redelivered=True))


@examples(400)
@given(data=st.data())
async def test_a_message_is_handled_requeued_or_dead_lettered(consumers: Consumers, data: st.DataObject) -> None:
    """Every consumer bound to the routing key accepts or dead-letters a changed message."""
    said = {message.type or message.key: message for message in consumers.messages}
    model = said[data.draw(st.sampled_from(sorted(said)))]
    mangled = documents_like(orjson.loads(model.body)).map(json_bytes) | bytes_like(model.body, NESTED)
    body = data.draw(mangled)
    message = Message(model.id, model.exchange, model.key, body, model.headers, model.content_type, model.type)
    for consumer in consumers.of(message):
        if consumer.exchange is message.exchange:
            await handled(consumer, message)


@examples(200)
@given(data=st.data())
async def test_a_message_with_another_key_is_handled_requeued_or_dead_lettered(
    consumers: Consumers, data: st.DataObject
) -> None:
    """The same for messages with another kind's or an unknown routing key."""
    model = data.draw(st.sampled_from(sorted(consumers.messages, key=lambda message: (message.type, message.key))))
    key = data.draw(texts_like("client.deleted.a", "api.deleted.b", "policy.updated.c", "grant.revoked.d"))
    await asyncio.gather(
        *(handled(each, Message(model.id, each.exchange, key, model.body)) for each in consumers.subscriptions)
    )


@examples(200)
@given(pieces, st.booleans())
async def test_an_event_is_one_frame_of_the_stream_or_left_out(text: str, spread: bool) -> None:
    """An event becomes one frame of the stream, or is left out; line breaks cannot split it."""
    subscribers, subscriber = StreamSubscribers(), StreamSubscriber(EventFilter())
    subscribers.join(subscriber)
    event = {"id": text, "type": f"io.tokenwire.{text}", "data": {"x": [text]}}
    body = orjson.dumps(event, option=orjson.OPT_INDENT_2) if spread and is_speakable(text) else json_bytes(event)
    await subscribers.deliver(Delivery(Message("id", Exchange.EVENTS, "k", body), redelivered=False))
    subscriber.offer(END)
    if (streamed := await subscriber.next()) is not None and streamed != END:
        lines = [line.partition(b": ")[0] for line in streamed.frame.split(b"\n")]
        assert lines == [b"id", b"event", b"data", b"", b""]


END = StreamedEvent("end", "end", None, b"")


def is_speakable(text: str) -> bool:
    """Whether it has no lone surrogates."""
    return text == text.encode(errors="ignore").decode()
