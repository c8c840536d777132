"""What a Tyk gateway has: read from its API, or from files that were exported from it or that it reads itself."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cli.api_client import ApiClient, segment
from cli.failures import Failure, Refused

EXTENSION = "x-tyk-api-gateway"
_SUFFIXES = {".json", ".yaml", ".yml"}
_VARIABLE = "env://"
_MANIFEST = ".tyk.json"
"""Written by tyk-sync beside the definitions; it has no records itself."""

Document = dict[str, Any]


@dataclass(slots=True)
class TykExport:
    """The records of a Tyk gateway, in its own formats."""

    apis: list[Document] = field(default_factory=list)
    policies: list[Document] = field(default_factory=list)
    clients: list[tuple[str, Document]] = field(default_factory=list)
    """Each with the id of its API."""
    notes: list[str] = field(default_factory=list)
    """What could not be read, and what never moves."""


async def from_gateway(call: ApiClient) -> TykExport:
    """Everything that the gateway's API shows. Raises Failure."""
    export = TykExport()
    classic, oas = await _list(call, "/tyk/apis", export), await _list(call, "/tyk/apis/oas", export)
    export.apis = _without_internal_forms([*classic, *oas])
    export.policies = await _list(call, "/tyk/policies", export)
    for document in export.apis:
        api_id = api_id_of(document)
        if issues_tokens(document):
            clients = await _list(call, f"/tyk/oauth/clients/{segment(api_id)}", export)
            export.clients += [(api_id, client) for client in clients]
    keys = await call.get("/tyk/keys")
    if isinstance(keys, dict) and keys.get("keys"):
        export.notes.append(
            f"the keys in Tyk ({len(keys['keys'])}: tokens, and users of the password grant) stay there: tokens are "
            "issued anew, and the gateway's API does not tell whose hash a password has; create the users with new "
            "passwords"
        )
    return export


async def _list(call: ApiClient, path: str, export: TykExport) -> list[Document]:
    try:
        found = await call("GET", path)
    except Refused as refused:
        if refused.http_status == 403:
            raise Failure("Tyk refuses the secret; give the gateway's `secret` (tyk.conf) with --secret") from None
        if refused.http_status == 404:
            export.notes.append(f"Tyk has nothing at {path}")
            return []
        raise
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise Failure(f"Tyk's response to {path} is not a list of objects; is this the URL of a Tyk gateway?")
    return found


def from_files(paths: Sequence[Path]) -> TykExport:
    """Everything in these files, and in the JSON and YAML files of these directories. Raises Failure."""
    export = TykExport()
    for path in _files(paths):
        try:
            document = _with_environment(_content(path))
        except (OSError, ValueError, yaml.YAMLError) as error:
            line = str(error).splitlines()[0]
            raise Failure(f"{path} cannot be read: {line}") from None
        if not _take(export, document, path.stem):
            export.notes.append(f"{path} has no API definition, policy or client app, and was left out")
    export.apis = _without_internal_forms(export.apis)
    return export


def _content(path: Path) -> Any:
    """The JSON or YAML value in the file. Raises OSError, ValueError, YAMLError."""
    text = path.read_text(encoding="utf-8-sig")
    # JSON may be indented with tabs, which YAML does not allow.
    return json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)


def _without_internal_forms(apis: Sequence[Document]) -> list[Document]:
    """The definitions without those that Tyk makes of an OAS definition, and has in its lists and directories, too."""
    with_oas = {api_id_of(document) for document in apis if EXTENSION in document}
    return [document for document in apis if EXTENSION in document or api_id_of(document) not in with_oas]


def _with_environment(value: Any) -> Any:
    """The value with `env://NAME` replaced by the environment variable of that name, as Tyk does; others stay."""
    if isinstance(value, dict):
        return {key: _with_environment(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_with_environment(item) for item in value]
    if isinstance(value, str) and _VARIABLE in value:
        before, _, name = value.partition(_VARIABLE)
        return before + os.environ[name] if os.environ.get(name) else value
    return value


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise Failure(f"{path} does not exist")
        if path.is_dir():
            found = (each for each in path.rglob("*") if each.is_file() and each.suffix.lower() in _SUFFIXES)
            yield from sorted(each for each in found if each.name != _MANIFEST)
        else:
            yield path


def _take(export: TykExport, document: Any, name: str) -> bool:
    """Add what the document is or contains; False if that is nothing."""
    if isinstance(document, list):
        return _take_all(export, [(each, name) for each in document])
    if not isinstance(document, dict):
        return False
    if EXTENSION in document or "api_definition" in document or ("proxy" in document and "api_id" in document):
        export.apis.append(document)
    elif "client_id" in document:
        # Alone or in a list, as the gateway's API shows it: in a file named after the API, if it does not say which.
        export.clients.append((str(document.get("api_id") or name), document))
    elif "access_rights" in document or "access_rights_array" in document:
        export.policies.append(document)
    elif isinstance(document.get("apps"), list):  # of the Dashboard
        return _take_all(export, [(each, name) for each in document["apps"]])
    elif isinstance(document.get("Data"), list):  # of the Dashboard
        return _take_all(export, [(each, name) for each in document["Data"]])
    elif document and all(isinstance(value, dict | list) for value in document.values()):
        # By id: the gateway's file of policies, or client apps by the id of their API.
        return _take_all(export, [(_with_id(key, value), str(key)) for key, value in document.items()])
    else:
        return False
    return True


def _take_all(export: TykExport, documents: Sequence[tuple[Any, str]]) -> bool:
    """Whether any of these documents was something; all are added."""
    taken = [_take(export, document, name) for document, name in documents]
    return any(taken)


def _with_id(key: object, value: Any) -> Any:
    """A policy in the gateway's file has its id only as the key."""
    if isinstance(value, dict) and "access_rights" in value and not value.get("id") and not value.get("_id"):
        return {**value, "id": str(key)}
    return value


def api_id_of(document: Mapping[str, Any]) -> str:
    """The id of the API that the definition defines; empty if it has none."""
    if isinstance(extension := document.get(EXTENSION), dict):
        info = extension.get("info")
        return str(info.get("id") or "") if isinstance(info, dict) else ""
    bare = document.get("api_definition", document)
    return str(bare.get("api_id") or "") if isinstance(bare, dict) else ""


def issues_tokens(document: Mapping[str, Any]) -> bool:
    """Whether Tyk is the authorization server of the API."""
    if EXTENSION in document:
        schemes = document.get("components", {}).get("securitySchemes", {})
        return any(isinstance(each, dict) and each.get("type") == "oauth2" for each in schemes.values())
    bare = document.get("api_definition", document)
    return isinstance(bare, dict) and bool(bare.get("use_oauth2"))
