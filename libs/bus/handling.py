"""Runs the handler of a delivery and decides how it ends: acknowledged, retried after a backoff, or dead-lettered.

Both buses use this, so that a handler behaves the same on each.
"""

import asyncio
import enum

import structlog

from libs.bus.port import Delivery, Drop, Handler, Retry
from libs.supervision import error_fields

log = structlog.get_logger()

LONGEST_BACKOFF = 60.0
"""Seconds. RabbitMQ closes the channel of a consumer that keeps a message for half an hour."""


class Ending(enum.Enum):
    """What happens to the message."""

    DONE = "done"
    """It is acknowledged and gone."""
    RETRY = "retry"
    """It is delivered again after a backoff; at the delivery limit it becomes a dead letter."""
    DEAD_LETTER = "dead_letter"
    """It goes to the pool's dead-letter queue at once."""


async def handle(handler: Handler, delivery: Delivery, subscription: str) -> Ending:
    """Run the handler and turn its return, Retry, Drop or failure into an ending.

    Raises CancelledError only if this task is cancelled. A CancelledError from something that the handler waited for
    means that the handler did not finish: the message is retried.
    """
    try:
        await handler(delivery)
    except Retry as retry:
        log.info("message_requeued", **_fields(delivery, subscription), reason=str(retry))
        return Ending.RETRY
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        log.warning("message_handler_cancelled", **_fields(delivery, subscription))
        return Ending.RETRY
    except Drop as drop:
        log.warning("message_dead_lettered", **_fields(delivery, subscription), reason=str(drop))
        return Ending.DEAD_LETTER
    except Exception as error:  # noqa: BLE001 - any bug in a handler dead-letters its message, and the consumer goes on
        log.error("message_handler_failed", **_fields(delivery, subscription), **error_fields(error))
        return Ending.DEAD_LETTER
    return Ending.DONE


def backoff(deliveries: int, first: float) -> float:
    """Seconds to wait before a message is delivered again that was delivered `deliveries` times before.

    Doubles from `first` up to LONGEST_BACKOFF.
    """
    return min(first * 2.0 ** min(deliveries, 30), LONGEST_BACKOFF)


def _fields(delivery: Delivery, subscription: str) -> dict[str, object]:
    return {"subscription": subscription, "message_id": delivery.message.id, "type": delivery.message.type}
