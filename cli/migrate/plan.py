"""What would be created, changed and left: the plan of a migration, made without writing anything."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from cli.api_client import ApiClient, segment
from cli.failures import Refused
from cli.migrate.tyk_export import EXTENSION, TykExport, api_id_of
from contracts.clients import ClientRegistration
from contracts.policies import PolicyDocument
from libs.http.error_responses import first_fault
from libs.oauth.redirect_uris import check_registrable
from libs.tyk.classic import read_classic
from libs.tyk.import_notes import ACCEPT, ImportNotes
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.json_values import without_nulls
from libs.tyk.oas import read_oas
from libs.tyk.policy_notes import policy_notes

_NOW = datetime(2000, 1, 1, tzinfo=UTC)
"""Only to read definitions with; nothing of it is kept."""
EDITABLE = ("redirect_uris", "policy_ids", "meta_data", "description")


class Kind(enum.StrEnum):
    """What moves."""

    API = "api"
    POLICY = "policy"
    CLIENT = "client"


class Action(enum.StrEnum):
    """What becomes of a record."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    """It is there already, as it should be."""
    CANNOT_MOVE = "cannot move"


@dataclass(slots=True)
class Step:
    """One record: what becomes of it, and why."""

    kind: Kind
    key: str
    name: str = ""
    """What people call it; empty if it has no name."""
    action: Action = Action.CREATE
    warnings: list[str] = field(default_factory=list)
    reason: str = ""
    """Why it cannot move."""
    api_id: str = ""
    """The API of a client."""
    body: dict[str, Any] = field(default_factory=dict)
    """What is sent. It may contain secrets, so no report has it."""
    rotate: bool = False
    """The client exists with another secret, which Tyk's replaces."""

    @property
    def moves(self) -> bool:
        """Whether the record will be there afterwards."""
        return self.action is not Action.CANNOT_MOVE

    def cannot(self, reason: str) -> "Step":
        """The same, with the reason why it cannot move."""
        self.action, self.reason = Action.CANNOT_MOVE, reason
        return self


@dataclass(slots=True)
class Options:
    """What the operator decides."""

    accept_unsupported: bool = False
    separator: str = ";"
    """Between several redirect URIs in one text; Tyk's `oauth_redirect_uri_separator`."""


class Target:
    """What Tokenwire has already; nothing, if it is not asked."""

    def __init__(self, call: ApiClient | None) -> None:
        self._call = call

    async def get(self, path: str) -> Any:
        """The record at this path, or None."""
        return await self._call.get(path) if self._call else None


async def plan_of(export: TykExport, target: Target, options: Options) -> list[Step]:
    """The steps, in the order in which they are to be done: APIs, policies, clients."""
    steps = [await _api_step(document, target, options) for document in export.apis]
    _refuse_repeated(steps)
    apis = {step.key for step in steps if step.moves}
    policies = [await _policy_step(document, target, apis) for document in export.policies]
    _refuse_repeated(policies)
    known = {step.key for step in policies if step.moves}
    clients = [await _client_step(api_id, said, target, apis, known, options) for api_id, said in export.clients]
    return [*steps, *policies, *clients]


def _refuse_repeated(steps: Iterable[Step]) -> None:
    seen: set[str] = set()
    for step in steps:
        if step.key in seen and step.moves:
            step.cannot("the id is used twice in what was read; remove one of the two")
        seen.add(step.key)


async def _api_step(document: dict[str, Any], target: Target, options: Options) -> Step:
    name = _name_of(document) or "an API without id"
    step = Step(Kind.API, api_id_of(document) or str(name), str(name), body=document)
    if not api_id_of(document):
        return step.cannot("the definition has no id, so that importing it again would create another API; give it one")
    notes = ImportNotes()
    reader = read_oas if EXTENSION in document else read_classic
    try:
        api = reader(document, api_id=step.key, now=_NOW, accept_unsupported=options.accept_unsupported, notes=notes)
    except (InvalidDefinition, ValidationError) as error:
        step.warnings = notes.warnings
        reason = first_fault(error) if isinstance(error, ValidationError) else str(error)
        return step.cannot(reason.replace(f"?{ACCEPT}", "--accept-unsupported"))
    step.warnings = [*notes.warnings]
    step.warnings += [f"{part.path}: NOT ENFORCED: {part.reason}" for part in api.unsupported]
    there = await target.get(f"/api/apis/{segment(step.key)}")
    if there is not None:
        step.action = Action.UNCHANGED if there == document else Action.UPDATE
    return step


def _name_of(document: Mapping[str, Any]) -> object:
    """The name of the API, as both of Tyk's formats have it."""
    extension, title = document.get(EXTENSION), document.get("info")
    info = extension.get("info") if isinstance(extension, dict) else None
    bare = document.get("api_definition", document)
    places = ((info, "name"), (title, "title"), (bare, "name"))
    return next((place[key] for place, key in places if isinstance(place, dict) and place.get(key)), None)


async def _policy_step(document: dict[str, Any], target: Target, apis: set[str]) -> Step:
    key = str(document.get("id") or document.get("_id") or "")
    name = str(document.get("name") or "")
    step = Step(Kind.POLICY, key or name or "a policy without id", name)
    if not key:
        return step.cannot("the policy has no id, so that clients cannot name it; give it one")
    said = {name: value for name, value in document.items() if value is not None and name != "_id"} | {"id": key}
    rights = said.get("access_rights") or {
        str(right.get("api_id")): right for right in said.get("access_rights_array") or () if isinstance(right, dict)
    }
    said["access_rights"] = {}
    for api_id, right in rights.items():
        if api_id in apis or await target.get(f"/api/apis/{segment(api_id)}") is not None:
            said["access_rights"][api_id] = {
                "api_id": api_id,
                **(without_nulls(right) if isinstance(right, dict) else {}),
            }
        else:
            step.warnings.append(f"access_rights.{api_id}: there is no such API, so nothing is granted on it")
    said.pop("access_rights_array", None)
    step.body = {name: said[name] for name in PolicyDocument.model_fields if name in said}
    step.warnings += policy_notes(said)
    try:
        wanted = PolicyDocument.model_validate(step.body)
    except ValidationError as error:
        return step.cannot(first_fault(error))
    there = await target.get(f"/api/portal/policies/{segment(key)}")
    if there is not None:
        step.action = Action.UNCHANGED if PolicyDocument.model_validate(there) == wanted else Action.UPDATE
    return step


async def _client_step(
    api_id: str, said: dict[str, Any], target: Target, apis: set[str], policies: set[str], options: Options
) -> Step:
    step = Step(Kind.CLIENT, str(said.get("client_id") or ""), api_id=api_id)
    if not step.key:
        return step.cannot("it has no client_id")
    if api_id not in apis and await target.get(f"/api/apis/{segment(api_id)}") is None:
        return step.cannot(f"its API '{api_id}' does not move")
    uris = _redirect_uris(str(said.get("redirect_uri") or ""), options.separator)
    try:
        for uri in uris:
            check_registrable(uri)
    except ValueError as error:
        return step.cannot(f"redirect_uri: {error}")
    policy = str(said.get("policy_id") or "")
    if policy and policy not in policies and await target.get(f"/api/portal/policies/{segment(policy)}") is None:
        return step.cannot(f"its policy '{policy}' does not move; without it the client could do more than at Tyk")
    meta_data = said.get("meta_data")
    if meta_data is not None and not isinstance(meta_data, dict):
        step.warnings.append("meta_data: it is no object, so it is kept under the name `value`")
        meta_data = {"value": meta_data}
    step.body = {
        "client_id": step.key,
        "secret": said.get("secret") or None,
        "redirect_uris": uris,
        "policy_ids": [policy] if policy else [],
        "meta_data": meta_data or {},
        "description": str(said.get("description") or ""),
    }
    if not step.body["secret"]:
        step.warnings.append("secret: the export has none, so a new one is generated; read it with `clients show`")
        del step.body["secret"]
    if len(uris) == 0:
        step.warnings.append("redirect_uri: it has none, so it cannot use authorization codes")
    try:
        ClientRegistration.model_validate(step.body)
    except ValidationError as error:
        return step.cannot(_named(first_fault(error), step.body))
    there = await target.get(f"/api/apis/oauth/{segment(api_id)}/{segment(step.key)}")
    if there is not None:
        step.rotate = "secret" in step.body and there.get("secret") != step.body["secret"]
        same = all(there[name] == step.body[name] for name in EDITABLE) and not step.rotate
        step.action = Action.UNCHANGED if same else Action.UPDATE
    return step


def _named(fault: str, body: Mapping[str, Any]) -> str:
    if fault.startswith("client_id"):
        return f"{fault}; register the client under another id, and tell it"
    if fault.startswith("secret"):
        return f"{fault}; rotate the secret at Tyk first, or register the client with a new one"
    return fault


def _redirect_uris(text: str, separator: str) -> list[str]:
    parts = text.split(separator) if separator else [text]
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


async def apply(step: Step, call: ApiClient, options: Options) -> None:
    """Do the step; what fails is noted in it as not moved. Raises Failure if the server cannot be reached."""
    try:
        if step.moves and step.action is not Action.UNCHANGED:
            await _DO[step.kind](step, call, options)
    except Refused as refused:
        step.cannot(str(refused))


async def _apply_api(step: Step, call: ApiClient, options: Options) -> None:
    query = {"accept_unsupported": "true"} if options.accept_unsupported else None
    if step.action is Action.CREATE:
        await call("POST", "/api/apis", step.body, query)
    else:
        await call("PUT", f"/api/apis/{segment(step.key)}", step.body, query)


async def _apply_policy(step: Step, call: ApiClient, _: Options) -> None:
    if step.action is Action.CREATE:
        await call("POST", "/api/portal/policies", step.body)
    else:
        await call("PUT", f"/api/portal/policies/{segment(step.key)}", step.body)


async def _apply_client(step: Step, call: ApiClient, _: Options) -> None:
    path = f"/api/apis/oauth/{segment(step.api_id)}"
    if step.action is Action.CREATE:
        await call("POST", path, step.body)
        return
    await call("PUT", f"{path}/{segment(step.key)}", {name: step.body[name] for name in EDITABLE})
    if step.rotate:
        await call("PUT", f"{path}/{segment(step.key)}/rotate", {"secret": step.body["secret"]})


_DO = {Kind.API: _apply_api, Kind.POLICY: _apply_policy, Kind.CLIENT: _apply_client}
