"""Acknowledgements are sent in batches, and never for a message that no handler has finished."""

from dataclasses import dataclass, field
from typing import Any, cast

from aio_pika.abc import AbstractIncomingMessage
from hypothesis import given
from hypothesis import strategies as st

from libs.bus.rabbit.acknowledger import Acknowledger


@dataclass
class Broker:
    """What the broker was told, and what it then still waits for."""

    told: list[tuple[str, int]] = field(default_factory=list)
    unsettled: set[int] = field(default_factory=set)

    def message(self, tag: int) -> AbstractIncomingMessage:
        self.unsettled.add(tag)
        return cast(AbstractIncomingMessage, _Message(self, tag))

    def settle(self, what: str, tag: int, multiple: bool = False) -> None:
        assert tag in self.unsettled, "the broker closes the channel for an unknown delivery tag"
        self.told.append((what, tag))
        self.unsettled -= {each for each in self.unsettled if each <= tag} if multiple else {tag}


@dataclass
class _Message:
    broker: Broker
    delivery_tag: int

    async def ack(self, multiple: bool = False) -> None:
        self.broker.settle("multiple" if multiple else "ack", self.delivery_tag, multiple)

    async def reject(self, requeue: bool = False) -> None:
        self.broker.settle("requeue" if requeue else "reject", self.delivery_tag)


def delivered(broker: Broker, *tags: int) -> Acknowledger:
    acknowledger = Acknowledger()
    for tag in tags:
        acknowledger.delivered(broker.message(tag))
    return acknowledger


async def test_consecutive_messages_are_acknowledged_together() -> None:
    """One frame for the oldest that are finished without a gap, and one for each of the others."""
    broker = Broker()
    acknowledger = delivered(broker, 1, 2, 3, 4, 5)
    for tag in (5, 1, 2):
        acknowledger.acknowledge(tag)
    await acknowledger.flush()
    assert broker.told == [("multiple", 2), ("ack", 5)]
    assert broker.unsettled == {3, 4}


async def test_a_rejected_message_is_not_acknowledged_with_others() -> None:
    """The rejection goes first."""
    broker = Broker()
    acknowledger = delivered(broker, 1, 2, 3)
    acknowledger.acknowledge(1)
    acknowledger.reject(2, True)
    acknowledger.acknowledge(3)
    await acknowledger.flush()
    assert broker.told == [("requeue", 2), ("multiple", 3)]
    assert acknowledger.idle


async def test_a_delivery_that_never_arrived_is_not_acknowledged() -> None:
    """Its number is missing, so nothing is acknowledged together with it: the broker keeps the message."""
    broker = Broker()
    broker.message(2)  # lost inside the client library
    acknowledger = delivered(broker, 1, 3, 4)
    for tag in (1, 3, 4):
        acknowledger.acknowledge(tag)
    await acknowledger.flush()
    assert broker.unsettled == {2}


@given(st.lists(st.sampled_from(["deliver", "ack", "requeue", "reject", "flush"]), max_size=60), st.randoms())
async def test_exactly_the_settled_messages_are_settled(steps: list[str], random: Any) -> None:
    """Whatever the order of deliveries, endings and batches."""
    broker, acknowledger, running, last = Broker(), Acknowledger(), list[int](), 0
    for step in steps:
        if step == "deliver":
            last += 1
            running.append(acknowledger.delivered(broker.message(last)))
        elif step == "flush":
            await acknowledger.flush()
        elif running:
            tag = running.pop(random.randrange(len(running)))
            if step == "ack":
                acknowledger.acknowledge(tag)
            else:
                acknowledger.reject(tag, step == "requeue")
    await acknowledger.flush()
    assert broker.unsettled == set(running)
    assert acknowledger.idle is not bool(running)
