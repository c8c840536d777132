"""Sign in with an operator key, and sign out."""

import hmac
import re
from dataclasses import dataclass

import aiohttp_jinja2
from aiohttp import hdrs, web

from contracts.operators import OperatorView
from services.console.service_calls import CallRefused, ServiceCalls
from services.console.session_cookies import FORM_COOKIE, SessionCookies
from services.console.visits import SELF, SIGN_IN, Visit, go_to, next_path, read_form, require_same_origin

_KEY = re.compile(r"[\x21-\x7e]{1,512}")
_UNKNOWN = "No operator has this key. Copy the whole key, or ask somebody with the permission admin for a new one."


@dataclass(frozen=True, slots=True)
class SignIn:
    """The sign-in form. The management service checks the key, and slows down who tries many."""

    cookies: SessionCookies
    calls: ServiceCalls

    async def form(self, request: web.Request) -> web.Response:
        """GET /console/sign-in."""
        if self.cookies.read(request) is not None:
            return go_to(next_path(request.query.get("next", "")))
        return self._form(request, next_path(request.query.get("next", "")))

    async def submit(self, request: web.Request) -> web.Response:
        """POST /console/sign-in: to the page that was wanted, or back to the form with the reason."""
        require_same_origin(request)
        fields, _ = await read_form(request)
        target, key = next_path(fields.get("next", "")), fields.get("key", "").strip()
        expected = request.cookies.get(FORM_COOKIE, "")
        if not expected or not hmac.compare_digest(fields.get("csrf", "").encode(), expected.encode()):
            return self._form(request, target, 403, "The form was too old. Send it again.")
        if not _KEY.fullmatch(key):
            return self._form(request, target, 401, _UNKNOWN)
        try:
            await self.calls.with_key(key).get(OperatorView, SELF)
        except CallRefused as refused:
            return self._refused(request, target, refused)
        response = go_to(target)
        self.cookies.write(response, self.cookies.begin(key))
        return response

    async def sign_out(self, visit: Visit) -> web.StreamResponse:
        """POST /console/sign-out."""
        response = go_to(f"{SIGN_IN}?out=1")
        self.cookies.end(response, visit.session)
        return response

    def _refused(self, request: web.Request, target: str, refused: CallRefused) -> web.Response:
        messages = {401: _UNKNOWN, 403: "This key lacks the permission read, without which the console shows nothing."}
        message = messages.get(refused.status, refused.message)
        response = self._form(request, target, refused.status, message)
        if refused.retry_after is not None:
            response.headers[hdrs.RETRY_AFTER] = str(refused.retry_after)
        return response

    def _form(self, request: web.Request, target: str, status: int = 200, problem: str = "") -> web.Response:
        out = "out" in request.query and not problem
        context = {"visit": None, "target": target, "problem_text": problem, "out": out, "csrf": ""}
        response = web.Response(status=status, content_type="text/html", charset="utf-8")
        context["csrf"] = self.cookies.begin_form(response)
        response.text = aiohttp_jinja2.render_string("sign_in.html", request, context)
        return response
