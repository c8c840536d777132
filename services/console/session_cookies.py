"""Sessions: the operator's key and what belongs to it, in an encrypted cookie. Nothing is stored on the server."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiohttp import web
from pydantic import Field, ValidationError

from contracts.base import Contract, Moment
from libs.encryption import CannotDecrypt, KeyRing

COOKIE, PATH = "tokenwire_console", "/console"
FORM_COOKIE = "tokenwire_console_sign_in"
"""Holds the CSRF token of the sign-in form, for which there is no session yet."""
_LABEL = "console session"
RENEW_AFTER = timedelta(seconds=60)
"""A cookie older than this is replaced with the next page, so that the idle time counts from there."""
_MOST_ENDED = 10_000


class Session(Contract):
    """A signed-in operator. `csrf` is in every form; a request that changes something must send it back."""

    id: str = Field(default_factory=lambda: secrets.token_urlsafe(16))
    key: str
    csrf: str = Field(default_factory=lambda: secrets.token_urlsafe(16))
    began_at: Moment
    seen_at: Moment
    message: str = ""
    """What the last action did, for the next page."""


@dataclass(slots=True)
class SessionCookies:
    """Reads and writes the cookie. A session ends `idle` after the last request, and `lifetime` after it began."""

    keys: KeyRing
    idle: timedelta
    lifetime: timedelta
    secure: bool
    """Whether browsers may send the cookie over TLS only."""
    now: Callable[[], datetime]
    ended: dict[str, datetime]
    """Sessions that were signed out of in this process, so that a copy of their cookie is of no use here either."""

    def begin(self, key: str) -> Session:
        """A new session with an id and a CSRF token of its own, whatever cookie the browser had before."""
        now = self.now()
        return Session(key=key, began_at=now, seen_at=now)

    def read(self, request: web.Request) -> Session | None:
        """The session of the request; None if there is none, or if it has ended."""
        text = request.cookies.get(COOKIE, "")
        if not 0 < len(text) <= 4096:
            return None
        try:
            session = Session.model_validate_json(self.keys.decrypt(_LABEL, text, COOKIE))
        except (CannotDecrypt, ValidationError, ValueError):
            return None
        now = self.now()
        alive = now < session.seen_at + self.idle and now < session.began_at + self.lifetime
        return session if alive and session.id not in self.ended else None

    def write(self, response: web.StreamResponse, session: Session) -> None:
        """Set the cookie, with the session seen now."""
        seen = session.model_copy(update={"seen_at": self.now()})
        self._set(response, COOKIE, self.keys.encrypt(_LABEL, seen.model_dump_json().encode(), COOKIE))

    def is_due(self, session: Session) -> bool:
        """Whether the cookie should be written again for the idle time."""
        return self.now() >= session.seen_at + RENEW_AFTER

    def end(self, response: web.StreamResponse, session: Session | None) -> None:
        """Delete the cookie; what it contained no longer opens a session in this process."""
        if session is not None:
            now = self.now()
            if len(self.ended) >= _MOST_ENDED:
                self.ended = {each: until for each, until in self.ended.items() if until > now}
            self.ended[session.id] = session.began_at + self.lifetime
        response.del_cookie(COOKIE, path=PATH, secure=self.secure, httponly=True, samesite="Strict")

    def begin_form(self, response: web.StreamResponse) -> str:
        """A CSRF token for the sign-in form, also kept in a cookie."""
        token = secrets.token_urlsafe(16)
        self._set(response, FORM_COOKIE, token)
        return token

    def _set(self, response: web.StreamResponse, name: str, value: str) -> None:
        # Without an expiry: the cookie is gone when the browser ends, and the server decides when it ends before that.
        response.set_cookie(name, value, path=PATH, secure=self.secure, httponly=True, samesite="Strict")
