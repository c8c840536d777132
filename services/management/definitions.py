"""API definitions as they come and go: bytes to an API, and back to what was imported, secrets masked for readers."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from contracts.apis import Api, DefinitionFormat
from libs.http.errors import BadRequest
from libs.tyk.classic import read_classic
from libs.tyk.document import format_of, json_text, parse
from libs.tyk.errors import InvalidDefinition
from libs.tyk.oas import read_oas

MASK = "********"
"""What a reader sees in place of a secret."""
_SECRETS = frozenset({"sharedSecret", "shared_secret", "clientSecret", "client_secret", "secret", "password"})
_RESERVED_IDS = frozenset({"oas", "oauth", "keys"})
"""They have routes of their own under /api/apis/."""
_READERS = {DefinitionFormat.OAS: read_oas, DefinitionFormat.CLASSIC: read_classic}


def read_api(body: bytes, content_type: str | None, *, api_id: str, now: datetime, oas_only: bool) -> Api:
    """The API that the definition in the body is; `api_id` unless it names its own. Raises BadRequest."""
    try:
        document = parse(body, content_type)
        form = format_of(document)
        if oas_only and form is not DefinitionFormat.OAS:
            raise BadRequest("a Tyk OAS definition is expected here; Tyk Classic goes to /api/apis")
        _require_real_secrets(document)
        api = _READERS[form](document, api_id=api_id, now=now)
    except InvalidDefinition as error:
        raise BadRequest(str(error)) from error
    if api.api_id in _RESERVED_IDS:
        raise BadRequest(f"the API id '{api.api_id}' is reserved")
    return api


def definition_text(api: Api, *, with_secrets: bool) -> bytes:
    """What was imported, with its id, as JSON."""
    text = api.definition.get_secret_value()
    return (text if with_secrets else json_text(_masked(json.loads(text)))).encode()


def definition_of(api: Api, *, with_secrets: bool) -> dict[str, Any]:
    """What was imported, with its id."""
    document: dict[str, Any] = json.loads(api.definition.get_secret_value())
    return document if with_secrets else _masked(document)


def dashboard_entry(api: Api, *, with_secrets: bool) -> dict[str, Any]:
    """An API in the Dashboard's list: under `api_definition` a Classic API in full, an OAS API in outline."""
    if api.format is DefinitionFormat.OAS:
        return {"api_definition": _outline(api)}
    document = definition_of(api, with_secrets=with_secrets)
    return document if "api_definition" in document else {"api_definition": document}


def _outline(api: Api) -> dict[str, Any]:
    return {
        "api_id": api.api_id,
        "name": api.name,
        "org_id": api.org_id,
        "active": api.active,
        "is_oas": True,
        "use_oauth2": api.oauth is not None,
        "use_standard_auth": api.auth_token,
        "use_keyless": api.oauth is None and not api.auth_token,
        "proxy": {
            "listen_path": api.listen_path,
            "target_url": api.upstream_url,
            "strip_listen_path": api.strip_listen_path,
        },
    }


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: MASK if _is_secret(key, member) else _masked(member) for key, member in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else value


def _is_secret(key: str, value: Any) -> bool:
    return key in _SECRETS and isinstance(value, str) and value != ""


def _require_real_secrets(document: dict[str, Any]) -> None:
    """A reader's copy, written back by somebody else, must not turn the secrets into the mask."""
    if key := next((key for key, value in _secrets(document) if value == MASK), None):
        raise BadRequest(f"{key}: this is what is shown in place of a secret; send the secret itself")


def _secrets(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, member in value.items():
            if _is_secret(key, member):
                yield key, member
            else:
                yield from _secrets(member)
    elif isinstance(value, list):
        for item in value:
            yield from _secrets(item)
