"""/api/apis/{api_id}/signing-secret[/rotate]: the secret with which the API's webhooks are signed."""

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiohttp import web
from pydantic import SecretStr

from contracts.apis import Api, SigningSecret, SigningSecretRotation, SigningSecretView
from contracts.operations import RequestBody, ResponseSpec
from contracts.operators import Permission
from libs.event_encoding import EventContext
from libs.http.error_responses import BadRequest, ChangedByOthers, NotFound
from libs.http.operations import operator_operation
from libs.store.apis import Apis
from libs.store.optimistic import retry_on_conflict
from services.management.request_bodies import read_document_if_any
from services.management.success_responses import document

KEY_BYTES = 32
"""Standard Webhooks 1.0.0: "between 24 bytes (192 bits) and 64 bytes (512 bits)"."""


def new_signing_secret(now: datetime) -> SigningSecret:
    """A random one, spelled as Standard Webhooks says."""
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    return SigningSecret(secret=SecretStr(f"whsec_{key}"), created_at=now)


@dataclass(frozen=True, slots=True)
class SigningSecrets:
    """For operators with `write`, who may read secrets."""

    apis: Apis
    event_context: Callable[[], EventContext]

    @operator_operation(
        "GET",
        "/api/apis/{api_id}/signing-secret",
        "getSigningSecret",
        Permission.WRITE,
        tag="APIs",
        summary="Get the secret that signs an API's webhooks",
        description="`whsec_` and base64, for any library of Standard Webhooks. It is not the shared secret of Tyk's "
        "header. 404 for an API of an early version, which has none until it is rotated.",
        response=ResponseSpec(description="The secret.", models=(SigningSecretView,)),
        errors=(404,),
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /api/apis/{api_id}/signing-secret."""
        api = await self._named(request)
        if not api.signing_secrets:
            raise NotFound(
                "this API has no signing secret yet: its webhooks are signed with the shared secret; "
                f"POST /api/apis/{api.api_id}/signing-secret/rotate makes one"
            )
        return document(_view(api, self.event_context().now))

    @operator_operation(
        "POST",
        "/api/apis/{api_id}/signing-secret/rotate",
        "rotateSigningSecret",
        Permission.WRITE,
        tag="APIs",
        summary="Rotate the secret that signs an API's webhooks",
        description="For `overlap` seconds (a day by default) webhooks have two signatures, one with each secret, so "
        "that receivers can change in between.",
        body=RequestBody(model=SigningSecretRotation, optional=True),
        response=ResponseSpec(description="The new secret.", models=(SigningSecretView,)),
        errors=(404, 409),
    )
    async def rotate(self, request: web.Request) -> web.Response:
        """POST /api/apis/{api_id}/signing-secret/rotate."""
        await self._named(request)
        said = await read_document_if_any(request, SigningSecretRotation)
        new = new_signing_secret(self.event_context().now)

        async def attempt() -> Api | None:
            api, ctx = await self._named(request), self.event_context()
            if api.oauth is None:
                raise BadRequest("this API issues no tokens, so it sends no webhooks")
            kept = (new, *_overlapping(api, said.overlap, ctx.now))
            return await self.apis.rotate_signing_secret(api, kept, ctx)

        return document(_view(await retry_on_conflict(attempt, exhausted=ChangedByOthers), new.created_at))

    async def _named(self, request: web.Request) -> Api:
        api = await self.apis.get(request.match_info["api_id"])
        if api is None:
            raise NotFound("API not found")
        return api


def _overlapping(api: Api, overlap: timedelta, now: datetime) -> tuple[SigningSecret, ...]:
    """The current secret, for as long as it signs beside the new one."""
    if not overlap:
        return ()
    current = api.signing_secrets[:1]
    return tuple(each.model_copy(update={"expires_at": now + overlap}) for each in current)


def _view(api: Api, now: datetime) -> SigningSecretView:
    current, *others = api.signing_secrets
    until = [each.expires_at for each in others if each.expires_at is not None and each.expires_at > now]
    return SigningSecretView(
        secret=current.secret.get_secret_value(),
        created_at=current.created_at,
        previous_expires_at=until[0] if until else None,
    )
