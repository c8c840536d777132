"""A visit: one request of a signed-in operator, with the calls that it may make and the pages that it gets."""

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import aiohttp_jinja2
import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from contracts.operators import OperatorView, Permission
from libs.http.context import current
from libs.http.forms import BODY_WITHIN
from services.console.service_calls import Api, CallRefused, ServiceCalls
from services.console.session_cookies import PATH, Session, SessionCookies

SIGN_IN = f"{PATH}/sign-in"
SELF = "/api/operators/self"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # As no-referrer for every other site; forms need the Origin header, which no-referrer would make `null`.
    "Referrer-Policy": "same-origin",
}
"""Of every page. Any page may show something that only this operator may see, so none is ever stored."""
LARGEST_FORM = 2 * 1024 * 1024
LARGEST_DEFINITION_FORM = 8 * 1024 * 1024
"""Bytes. A definition has at most one MiB as the services take it; indented, beside its draft, it is a few times as
large. The edge allows a little more (edge/routes.conf)."""
_OWN_PATH = re.compile(r"/console(?:/[A-Za-z0-9._~%!$&'()*+,;=:@/-]*)?(?:\?[^\\\s#]*)?")
_LOCAL_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d)?")
_UPWARDS = re.compile(r"[^?]*/(?:\.|%2e){1,2}(?:[/?]|$)", re.IGNORECASE)
"""A path that browsers shorten, so that it may lead out of the console."""

log = structlog.get_logger("console")


_TOO_LARGE = (
    "The form is larger than {} MiB, so nothing of it was read or changed. Go back in your browser to shorten it; a "
    "definition of up to one MiB can also be sent to the management API as it is: tokenwire apis import."
)


class WrongForm(Exception):
    """What the operator filled in cannot be sent; the text says what to change."""


@dataclass(slots=True)
class Visit:
    """One request of a signed-in operator."""

    request: web.Request
    session: Session
    api: Api
    operator: OperatorView
    form: Mapping[str, str] = field(default_factory=dict)
    """The fields of the form that was sent; empty for a GET."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The text of the files that were sent with the form."""

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of the URL, without empty ones."""
        return {name: value for name, value in self.request.query.items() if value}

    def filters(self, *names: str) -> dict[str, str]:
        """The parameters of these names as the services take them; empty ones for those that the URL does not have.

        A time without a zone, as browsers' fields have it, is UTC.
        """
        given = {name: self.query.get(name, "").strip() for name in names}
        return {name: f"{value}Z" if _LOCAL_TIME.fullmatch(value) else value for name, value in given.items()}

    def named(self, name: str) -> str:
        """A part of the path."""
        return self.request.match_info[name]

    def may(self, permission: str) -> bool:
        """Whether the operator has the permission; only for what a page offers: the services decide."""
        held = self.operator.permissions
        return Permission.ADMIN in held or Permission(permission) in held

    @property
    def message(self) -> str:
        """What the last action did; this page shows it, the next one does not."""
        return self.session.message

    def link(self, path: str, **query: str | None) -> str:
        """The URL of another page of the console."""
        given = {name: value for name, value in query.items() if value}
        return f"{PATH}{path}" + (f"?{urlencode(given)}" if given else "")

    def filtered(self, **changes: str | None) -> str:
        """The URL of this page with other parameters; None removes one."""
        merged = {**self.query, **changes}
        given = {name: value for name, value in merged.items() if value}
        return self.request.rel_url.raw_path + (f"?{urlencode(given)}" if given else "")

    def page(self, template: str, status: int = 200, **model: Any) -> web.Response:
        """The page that this template makes of the model."""
        context = {"visit": self, "here": self.request.rel_url.raw_path, **model}
        response = aiohttp_jinja2.render_template(template, self.request, context, status=status)
        if self.session.message:
            self.session = self.session.model_copy(update={"message": ""})
        return response

    def done(self, message: str, path: str, **query: str | None) -> web.Response:
        """Go to another page, which begins with this sentence about what was done."""
        self.session = self.session.model_copy(update={"message": message})
        return go_to(self.link(path, **query))


Page = Callable[[Visit], Awaitable[web.StreamResponse]]


def needs(permission: Permission, page: Page) -> Page:
    """The page, for operators with this permission; others are told which one they lack, before anything is asked."""

    async def checked(visit: Visit) -> web.StreamResponse:
        if not visit.may(permission):
            raise web.HTTPForbidden(reason=f"Your key lacks the permission {permission}. Nothing was changed.")
        return await page(visit)

    return checked


@dataclass(frozen=True, slots=True)
class Visits:
    """Lets signed-in operators in, and nobody else; makes a page of whatever goes wrong."""

    cookies: SessionCookies
    calls: ServiceCalls

    def page(self, page: Page, largest_form: int = LARGEST_FORM) -> Handler:
        """The handler of a page or an action: it runs for a signed-in operator, a POST only with the CSRF token."""

        async def handle(request: web.Request) -> web.StreamResponse:
            session = self.cookies.read(request)
            if session is None:
                return _to_sign_in(request)
            api = self.calls.with_key(session.key)
            try:
                operator = await api.get(OperatorView, SELF)
            except CallRefused as refused:
                # 403: without the permission `read` the console shows nothing, not even a way to sign out.
                if refused.status not in {401, 403}:
                    raise
                ended = _to_sign_in(request)
                self.cookies.end(ended, session)
                return ended
            visit = Visit(request, session, api, operator)
            request[_VISIT] = visit
            if request.method == hdrs.METH_POST:
                await self._read_form(visit, largest_form)
            response = await page(visit)
            if not response.prepared and (visit.session is not session or self.cookies.is_due(session)):
                self.cookies.write(response, visit.session)
            return response

        return handle

    async def _read_form(self, visit: Visit, largest: int) -> None:
        require_same_origin(visit.request)
        visit.form, visit.files = await read_form(visit.request, largest)
        if not hmac.compare_digest(visit.form.get("csrf", "").encode(), visit.session.csrf.encode()):
            raise web.HTTPForbidden(reason="The form is too old or did not come from this page. Load the page again.")

    @web.middleware
    async def surround(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The middleware: the security headers of every page, and error pages."""
        try:
            response = await handler(request)
        except CallRefused as refused:
            response = _error(request, refused.status, refused.message)
            if refused.retry_after is not None:
                response.headers["Retry-After"] = str(refused.retry_after)
        except web.HTTPException as ended:
            response = _error(request, ended.status, _reason(ended))
        except Exception as error:
            log.error("unexpected_error", path=request.path, error=type(error).__name__, exc_info=error)
            response = _error(request, 500, "Something went wrong here. The request id below leads to it in the log.")
        if not response.prepared:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
        return response


_VISIT: web.RequestKey[Visit] = web.RequestKey("visit", Visit)


def next_path(text: str) -> str:
    """The page to go to after the sign-in; only ever one of the console."""
    own = len(text) <= 2048 and _OWN_PATH.fullmatch(text) and not _UPWARDS.match(text)
    return text if own else f"{PATH}/"


def require_same_origin(request: web.Request) -> None:
    """Raise HTTPForbidden if a browser says that the request comes from a page of another origin."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get(hdrs.ORIGIN)
    foreign = site not in {None, "same-origin", "none"} or (
        origin is not None and urlsplit(origin).netloc != request.host
    )
    if foreign:
        raise web.HTTPForbidden(reason="This form did not come from the console. Nothing was changed.")


async def read_form(request: web.Request, largest: int = LARGEST_FORM) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The fields and the text of the files of a form of at most `largest` bytes.

    Raises HTTPBadRequest, HTTPRequestTimeout, HTTPRequestEntityTooLarge.
    """
    fields: dict[str, str] = {}
    files: dict[str, str] = {}
    try:
        async with asyncio.timeout(BODY_WITHIN):
            sent = await request.clone(client_max_size=largest).post()
        for name, value in sent.items():
            if isinstance(value, web.FileField):
                files[name] = value.file.read().decode()
            elif isinstance(value, str):
                # Several boxes of one name are one list, as the services' forms have it.
                fields[name] = f"{fields[name]}\n{value}" if name in fields else value
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason="The form did not arrive in time. Send it again.") from None
    except web.HTTPRequestEntityTooLarge as error:
        raise web.HTTPRequestEntityTooLarge(largest, largest, reason=_TOO_LARGE.format(largest // 2**20)) from error
    except (ValueError, UnicodeDecodeError, LookupError) as error:
        raise web.HTTPBadRequest(reason="The form, or a file in it, is not UTF-8 text.") from error
    return fields, files


def go_to(url: str) -> web.Response:
    """The response that leads a browser to another page (303)."""
    return web.Response(status=303, headers={hdrs.LOCATION: url})


def _to_sign_in(request: web.Request) -> web.Response:
    here = request.rel_url
    target = next_path(f"{here.raw_path}?{here.raw_query_string}" if here.raw_query_string else here.raw_path)
    wanted = f"?next={quote(target, safe='/')}" if request.method == hdrs.METH_GET and target != f"{PATH}/" else ""
    return go_to(f"{SIGN_IN}{wanted}")


_TITLES = {
    400: "This cannot be done",
    403: "Not permitted",
    404: "Not found",
    405: "Not found",
    409: "Changed by somebody else",
    413: "Too large",
    429: "Too many attempts",
    503: "Not available",
}


def _reason(ended: web.HTTPException) -> str:
    return "There is nothing at this address." if ended.status in {404, 405} else ended.reason


def _error(request: web.Request, status: int, message: str) -> web.Response:
    status = 404 if status == 405 else status
    context = {
        "visit": request.get(_VISIT),
        "here": request.rel_url.raw_path,
        "status": status,
        "title": _TITLES.get(status, "Something went wrong"),
        "message": message,
        "request_id": current().request_id,
    }
    return aiohttp_jinja2.render_template("error.html", request, context, status=status)
