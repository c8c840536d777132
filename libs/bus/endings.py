"""How a delivery ends, the same for both buses: done, again after a pause, or parked."""

import asyncio
import enum
import traceback

import structlog

from libs.bus.port import Delivery, Drop, Handler, Retry

log = structlog.get_logger()

LONGEST_PAUSE = 60.0
"""Seconds that a message put back waits at most; a broker gives up on a consumer that holds one for half an hour."""


class Ending(enum.Enum):
    """What becomes of the message."""

    DONE = "done"
    AGAIN = "again"
    PARKED = "parked"


async def handle(handler: Handler, delivery: Delivery, subscription: str) -> Ending:
    """Run the handler. Its return, Retry, Drop or failure is the ending; only being cancelled passes through.

    A handler that waited for something which was cancelled has not been cancelled itself: it is tried again.
    """
    try:
        await handler(delivery)
    except Retry as retry:
        log.info("message_put_back", **_facts(delivery, subscription), reason=str(retry))
        return Ending.AGAIN
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        log.warning("message_handler_gave_up", **_facts(delivery, subscription))
        return Ending.AGAIN
    except Drop as drop:
        log.warning("message_dropped", **_facts(delivery, subscription), reason=str(drop))
        return Ending.PARKED
    except Exception as error:  # noqa: BLE001 - whatever a handler raises parks its message, and the consumer goes on
        log.error("message_handler_failed", **_facts(delivery, subscription), **_failure(error))
        return Ending.PARKED
    return Ending.DONE


def pause_before_return(returned: int, first: float) -> float:
    """Seconds to hold a message that came back `returned` times already: doubling from `first`, so nothing spins."""
    return min(first * 2.0 ** min(returned, 30), LONGEST_PAUSE)


def _facts(delivery: Delivery, subscription: str) -> dict[str, object]:
    return {"subscription": subscription, "message_id": delivery.message.id, "type": delivery.message.type}


def _failure(error: Exception) -> dict[str, object]:
    """The kind and the place. Not the text: a validation error quotes its input, which may be what nobody may read."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return {"error": type(error).__name__, "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]}
