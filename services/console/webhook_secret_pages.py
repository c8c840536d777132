"""The secrets of an API's webhooks: shown on request, and the rotation of the one that signs them."""

import asyncio
from collections.abc import Mapping

from aiohttp import web

from contracts.apis import SigningSecretView
from contracts.operators import Permission
from services.console.definition_view import read_definition
from services.console.service_calls import CallRefused, segment
from services.console.visits import Page, Visit, needs

_LONGEST_OVERLAP = 90 * 24
"""Hours."""


async def show_secrets(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/webhook-secrets: a POST, so that no link and no reload shows them."""
    try:
        signing = await visit.api.get(SigningSecretView, _path(visit))
    except CallRefused as refused:
        if refused.status != 404:
            raise
        return await _secrets(visit, None)
    return await _secrets(visit, signing)


async def confirm_rotation(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/webhook-secrets/rotate."""
    return _confirmation(visit)


async def rotate(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/webhook-secrets/rotate: the page after it shows the new secret."""
    hours = visit.form.get("overlap", "").strip() or "0"
    if not (hours.isascii() and hours.isdecimal() and len(hours) <= 4 and int(hours) <= _LONGEST_OVERLAP):
        return _confirmation(visit, f"The overlap is a whole number of hours, at most {_LONGEST_OVERLAP}.")
    made = await visit.api.change("POST", f"{_path(visit)}/rotate", {"overlap": int(hours) * 3600})
    return await _secrets(visit, SigningSecretView.model_validate(made), "The signing secret was rotated.")


def _confirmation(visit: Visit, problem: str = "") -> web.Response:
    return visit.page(
        "confirm.html",
        400 if problem else 200,
        title="Rotate the signing secret?",
        lines=[
            f"A new secret for the webhooks of the API {visit.named('api_id')} is generated and shown.",
            "During the overlap each webhook has two signatures, one with each secret, so that receivers can change.",
        ],
        fields=[
            (
                "overlap",
                "Hours for which the old secret signs, too",
                "0: it stops at once, and a receiver that has only the old one refuses the webhooks.",
                visit.form.get("overlap", "24"),
            )
        ],
        problem_text=problem,
        action="Rotate the secret",
        dangerous=False,
        back=visit.link(f"/apis/{segment(visit.named('api_id'))}"),
    )


async def _secrets(visit: Visit, signing: SigningSecretView | None, done: str = "") -> web.Response:
    api_id = visit.named("api_id")
    definition = await visit.api.send("GET", f"/api/apis/{segment(api_id)}")
    view = await asyncio.to_thread(read_definition, definition.decode(), api_id)
    notifications = view.api.oauth.notifications if view.api.oauth else None
    shared = notifications.shared_secret.get_secret_value() if notifications else ""
    return visit.page("webhook_secrets.html", api=view.api, signing=signing, shared=shared, done=done)


def _path(visit: Visit) -> str:
    return f"/api/apis/{segment(visit.named('api_id'))}/signing-secret"


PAGES: Mapping[str, Page] = {
    "POST /apis/{api_id}/webhook-secrets": needs(Permission.WRITE, show_secrets),
    "GET /apis/{api_id}/webhook-secrets/rotate": needs(Permission.WRITE, confirm_rotation),
    "POST /apis/{api_id}/webhook-secrets/rotate": needs(Permission.WRITE, rotate),
}
