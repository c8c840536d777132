"""Maps requests to client records (registration, edit, rotation) and client records to responses."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from contracts.apis import Api
from contracts.clients import Client, ClientEdit, ClientRegistration, ClientSecret, OAuthClient, SecretRotation
from libs.client_secrets import is_current
from libs.http.error_responses import BadRequest
from libs.oauth.client_auth import is_public
from libs.oauth.redirect_uris import check_registrable

MOST_SECRETS = 4
"""Maximum number of valid secrets: the newest and replaced ones within their overlap. The oldest is dropped early."""
_RESERVED = frozenset({".", "..", "authorize-client", "revoke", "revoke_all", "tokens"})
"""Not allowed as client ids, because they have a meaning in paths."""

Values = tuple[str, ...]


def new_client(
    registration: ClientRegistration,
    api: Api,
    client_id: str,
    secret: ClientSecret | None,
    now: datetime,
    separator: str,
) -> Client:
    """The client to store; it is public if it has no secret. Raises BadRequest."""
    require_same("api_id", registration.api_id, api.api_id)
    if client_id in _RESERVED:
        raise BadRequest(f"client_id: '{client_id}' is reserved")
    _require_credentials(resource_server=registration.resource_server, public=secret is None)
    redirect_uris = _agreed("redirect_uri", _split(registration.redirect_uri, separator), registration.redirect_uris)
    policy_ids = _agreed("policy_id", _alone(registration.policy_id), registration.policy_ids)
    return Client(
        client_id=client_id,
        api_id=api.api_id,
        name=registration.client_name or "",
        description=registration.description or "",
        redirect_uris=_registrable(redirect_uris or ()),
        policy_ids=_distinct(policy_ids or ()),
        scope=registration.scope,
        meta_data=registration.meta_data or {},
        secrets=(secret,) if secret else (),
        resource_server=registration.resource_server,
        localhost_any_port=registration.localhost_any_port,
        created_at=now,
        updated_at=now,
    )


def changes_of(edit: ClientEdit, client: Client, separator: str) -> dict[str, object]:
    """The fields that the edit changes. Omitted fields stay, null clears a field. Raises BadRequest.

    If both `redirect_uri` and `redirect_uris` (or `policy_id` and `policy_ids`) are given, the one that differs from
    what GET returns wins, so that a client can read a record, change either field, and write the record back.
    """
    require_same("client_id", edit.client_id, client.client_id)
    require_same("api_id", edit.api_id, client.api_id)
    if edit.public is not None and edit.public != is_public(client):
        raise BadRequest("public: cannot be changed after registration; register another client")
    _require_credentials(resource_server=bool(edit.resource_server), public=is_public(client))
    wanted = {
        "redirect_uris": _edited_redirect_uris(edit, client, separator),
        "policy_ids": _edited_policy_ids(edit, client),
        **_plain_fields(edit),
    }
    return {name: value for name, value in wanted.items() if value != getattr(client, name)}


def rotated_secrets(
    secrets: Sequence[ClientSecret], new: ClientSecret, rotation: SecretRotation, now: datetime
) -> tuple[ClientSecret, ...]:
    """The secrets after a rotation, the newest first. Without an overlap the old ones stop working at once."""
    if not rotation.overlap:
        return (new,)
    until = now + rotation.overlap
    old = [
        secret.model_copy(update={"expires_at": min(until, secret.expires_at or until)})
        for secret in secrets
        if is_current(secret, now)
    ]
    return (new, *old[: MOST_SECRETS - 1])


def client_view(client: Client, secret: str | None, separator: str) -> OAuthClient:
    """The client in the API's format."""
    return OAuthClient(
        client_id=client.client_id,
        secret=secret,
        api_id=client.api_id,
        redirect_uri=separator.join(client.redirect_uris),
        redirect_uris=client.redirect_uris,
        policy_id=client.policy_ids[0] if client.policy_ids else "",
        policy_ids=client.policy_ids,
        scope=client.scope,
        meta_data=client.meta_data,
        description=client.description,
        client_name=client.name,
        public=is_public(client),
        resource_server=client.resource_server,
        localhost_any_port=client.localhost_any_port or None,
        created_at=client.created_at,
        updated_at=client.updated_at,
    )


def require_same(name: str, given: str | None, expected: str) -> None:
    """Raises BadRequest if a field of the body contradicts the path."""
    if given is not None and given != expected:
        raise BadRequest(f"{name}: differs from '{expected}' in the path")


def require_declared(scope: str | None, api: Api) -> None:
    """Raises BadRequest if the scope contains one that the API does not declare: it would never be granted."""
    declared = api.oauth.scopes if api.oauth else ()
    unknown = [name for name in (scope.split(" ") if scope else ()) if name not in declared]
    if unknown:
        known = f"it declares {', '.join(declared)}" if declared else "it declares none"
        raise BadRequest(
            f"scope: the API's definition does not declare '{unknown[0]}' ({known}); "
            "add it to the scopes of its OAuth flows, or leave it out here"
        )


def _require_credentials(*, resource_server: bool, public: bool) -> None:
    # RFC 7662 §2.1: "the endpoint MUST also require some form of authorization".
    if resource_server and public:
        raise BadRequest("resource_server: a public client cannot authenticate, so it cannot be a resource server")


def _plain_fields(edit: ClientEdit) -> dict[str, object]:
    values = {
        "scope": ("scope", edit.scope),
        "meta_data": ("meta_data", edit.meta_data or {}),
        "description": ("description", edit.description or ""),
        "client_name": ("name", edit.client_name or ""),
        "resource_server": ("resource_server", edit.resource_server or False),
        "localhost_any_port": ("localhost_any_port", edit.localhost_any_port or False),
    }
    return dict(values[name] for name in values if name in edit.model_fields_set)


def _edited_redirect_uris(edit: ClientEdit, client: Client, separator: str) -> Values:
    current = client.redirect_uris
    one = _split(edit.redirect_uri or "", separator) if "redirect_uri" in edit.model_fields_set else None
    several = edit.redirect_uris or () if "redirect_uris" in edit.model_fields_set else None
    # A registered URI may itself contain the separator; then the single field splits it.
    if one == _split(separator.join(current), separator):
        one = current
    edited = _edited("redirect_uri", one, several, current, one_is_as_read=one == current)
    return current if edited is None or edited == current else _registrable(edited)


def _edited_policy_ids(edit: ClientEdit, client: Client) -> Values:
    current = client.policy_ids
    one = _alone(edit.policy_id or "") if "policy_id" in edit.model_fields_set else None
    several = edit.policy_ids or () if "policy_ids" in edit.model_fields_set else None
    edited = _edited("policy_id", one, several, current, one_is_as_read=one == current[:1])
    return current if edited is None else _distinct(edited)


def _edited(
    name: str, one: Values | None, several: Values | None, current: Values, *, one_is_as_read: bool
) -> Values | None:
    if one is None or several is None:
        return one if several is None else several
    if one_is_as_read:
        return several
    return one if several == current else _agreed(name, one, several)


def _agreed(name: str, one: Values | None, several: Values | None) -> Values | None:
    if one is not None and several is not None and one != several:
        raise BadRequest(f"{name} and {name}s differ")
    return one if several is None else several


def _split(text: str | None, separator: str) -> Values | None:
    return None if text is None else tuple(filter(None, (part.strip() for part in text.split(separator))))


def _alone(text: str | None) -> Values | None:
    return None if text is None else tuple(filter(None, (text,)))


def _registrable(uris: Iterable[str]) -> Values:
    try:
        return _distinct(map(check_registrable, uris))
    except ValueError as error:
        raise BadRequest(f"redirect_uri: {error}") from error


def _distinct(values: Iterable[str]) -> Values:
    return tuple(dict.fromkeys(values))
