"""Notes in grants that a token response was sent to its client, mostly carried by a write that is made anyway."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from libs.deadlines import NOTE_WITHIN, UNSENT_RESPONSE_WINDOW
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.mongo import Document
from libs.supervision import spawn

log = structlog.get_logger("response_notes")


@dataclass(frozen=True, slots=True)
class Note:
    """One response was sent to its client."""

    response_id: str
    at: datetime
    due: float
    """The event loop's time from which the note gets a write of its own."""


Notes = Mapping[str, Note]
"""By grant id."""


class ResponseNotes:
    """Notes that are not confirmed as stored yet.

    `Grants.clear` stores those of the grants whose events it clears. A note that is still here after NOTE_WITHIN
    seconds is stored by `write`, which is retried until it succeeds or the note is too old to matter.
    """

    def __init__(self, write: Callable[[Notes], Awaitable[None]]) -> None:
        self._write = write
        self._notes: dict[str, Note] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def add(self, grant_id: str, response_id: str, at: datetime) -> None:
        """Store this note soon. It replaces the note of an older response of the same grant."""
        loop = asyncio.get_running_loop()
        self._notes[grant_id] = Note(response_id, at, loop.time() + NOTE_WITHIN)
        if self._timer is None and self._writing is None:
            self._timer = loop.call_later(NOTE_WITHIN, self._tick)

    def get(self, grant_id: str) -> Note | None:
        """The note of the grant's newest response, if it is not stored yet."""
        return self._notes.get(grant_id)

    def of(self, grant_ids: Collection[str]) -> Notes:
        """The notes of these grants that are not stored yet."""
        notes = self._notes
        return {grant_id: notes[grant_id] for grant_id in grant_ids if grant_id in notes} if notes else {}

    def written(self, notes: Notes) -> None:
        """These notes are stored: drop them, unless a newer one has replaced them."""
        for grant_id, note in notes.items():
            if self._notes.get(grant_id) is note:
                del self._notes[grant_id]

    async def close(self) -> None:
        """Try once to store what is left. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await asyncio.wait((self._writing,))
        if self._notes:
            await asyncio.wait((spawn("response-notes", self._write_out(dict(self._notes))),))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        due = {grant_id: note for grant_id, note in self._notes.items() if note.due <= now}
        if due:
            self._writing = spawn("response-notes", self._write_out(due))
        else:
            self._rest(NOTE_WITHIN)

    def _rest(self, seconds: float) -> None:
        if self._notes:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._tick)

    async def _write_out(self, notes: Notes) -> None:
        pause = 1.0
        try:
            await self._write(notes)
            self.written(notes)
            pause = NOTE_WITHIN
        except TemporarilyUnavailable as error:
            log.warning("sent_responses_not_noted", responses=len(notes), error=error.detail)
        finally:
            self._writing = None
            self._forget_old(notes)
            self._rest(pause)

    def _forget_old(self, notes: Notes) -> None:
        oldest = asyncio.get_running_loop().time() - UNSENT_RESPONSE_WINDOW.total_seconds()
        self.written({grant_id: note for grant_id, note in notes.items() if note.due < oldest})


def noted(notes: Notes) -> Document:
    """Expression for the field `response` of a grant: with its note if it has one here, otherwise unchanged.

    With the note, the encrypted token pair (`box`) is removed, unless it is kept for lost-response recovery.
    """
    ids: Document = {"$literal": [note.response_id for note in notes.values()]}
    moments: Document = {"$literal": [note.at for note in notes.values()]}
    kept = ("id", "at", "recoverable", "recovered")
    response: Document = {name: f"$response.{name}" for name in kept}
    response["box"] = {"$cond": ["$response.recoverable", "$response.box", "$$REMOVE"]}
    response["written_at"] = {"$arrayElemAt": [moments, {"$indexOfArray": [ids, "$response.id"]}]}
    return {"$cond": [{"$in": ["$response.id", ids]}, response, {"$ifNull": ["$response", "$$REMOVE"]}]}
