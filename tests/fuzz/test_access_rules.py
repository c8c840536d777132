"""Access rules: policies with expressions, `key_rules`, and metadata for headers."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
from bson import BSON
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.clients import Client
from contracts.limits import RateLimit
from contracts.policies import Policy
from libs.http.error_responses import BadRequest
from libs.oauth.errors import AccessDenied, InvalidRequest
from libs.policies import KeyRules, PolicySets, access_on, compiled, counted_under
from libs.tyk.definition_text import parse
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.oas import read_oas
from services.authorization.key_rules import parse_key_rules, require_narrower
from services.gateway.injected_headers import injected_headers
from services.gateway.paths import readings
from services.management.policies import _view, read_policy
from tests.fuzz.extent import examples
from tests.fuzz.models import POLICY, RIGHT, RULES
from tests.fuzz.strange import any_text, documents, documents_like, json_bytes, pieces, texts_like
from tests.unit.tyk_definitions import changed, definition

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
HEADERS = [{"name": f"X-{key}", "value": f"<$tyk_meta.{key}>"} for key in ("tier", "name", "deep", "flag")]
API = read_oas(
    changed(
        definition("orders-oas.json"),
        "x-tyk-api-gateway/middleware/global/transformRequestHeaders",
        {"enabled": True, "add": HEADERS},
    ),
    api_id="orders-api",
    now=NOW,
)
KNOWN = Policy(policy_id="known", access_rights={API.api_id: RIGHT}, rate=10, per=1, created_at=NOW, updated_at=NOW)
CLIENT = Client(client_id="app", api_id=API.api_id, created_at=NOW, updated_at=NOW)
PATHS = ("/orders/get/1", "/orders/things", "/orders/get/1/../../etc")


def require_usable(
    policies: list[Policy] | None, rules: KeyRules | None, meta_data: dict[str, Any], *others: list[Policy]
) -> None:
    """The gateway can decide and count by it, and report it to upstream and client."""
    access = access_on(API, API.api_id, PolicySets(policies, others), rules, meta_data)
    if access is None:
        return
    for path in PATHS:
        access.allows("GET", readings(path))
    access.allows_version("v2")
    counted_under("grant", API.api_id, access)
    BSON.encode(access.limits.model_dump())
    RateLimit(requests=access.limits.rate, per_unit=access.limits.per).model_dump_json()
    for value in injected_headers(API, access.meta_data).values():
        assert value.isascii()
        assert value.isprintable()


@examples(400)
@given(documents_like(POLICY).map(json_bytes))
def test_a_policy_is_kept_and_applied_or_refused(body: bytes) -> None:
    """A policy is stored and applied, or refused."""
    with suppress(BadRequest, ValidationError, InvalidDefinition):
        said = read_policy(parse(body, "application/json"))
        fields = {name: getattr(said, name) for name in type(said).model_fields if name != "id"}
        policy = Policy(policy_id="fuzzed", created_at=NOW, updated_at=NOW, **fields)
        BSON.encode(policy.model_dump(exclude={"access_rights", "meta_data"}))
        kept = policy.model_dump(include={"access_rights", "meta_data"})
        assert orjson.loads(orjson.dumps(kept)) == orjson.loads(policy.model_dump_json(include=set(kept)))
        _view(policy).model_dump_json(by_alias=True)
        require_usable([policy], None, {})
        require_usable([policy, KNOWN], None, {})


@examples(400)
@given(documents_like(RULES).map(json_bytes).map(lambda body: body.decode()), st.booleans())
def test_key_rules_are_kept_and_applied_or_refused(text: str, has_policy: bool) -> None:
    """Key rules are stored and narrow the policies, or are refused."""
    policies = [KNOWN] if has_policy else []
    client = CLIENT.model_copy(update={"policy_ids": ("known",) if has_policy else ()})
    with suppress(InvalidRequest, AccessDenied):
        parsed = parse_key_rules(text)
        applied = [KNOWN if policy_id == "known" else None for policy_id in parsed.rules.apply_policies]
        require_narrower(parsed.rules, API, client, policies, applied, NOW)
        BSON.encode({"key_rules": orjson.dumps(parsed.stored), "expires_at": parsed.expires_at})
        require_usable(policies or None, KeyRules.model_validate(parsed.stored), {}, *([[KNOWN]] if applied else []))


@examples(200)
@given(texts_like('{"rate": 1}', orjson.dumps(RULES).decode()))
def test_key_rules_that_are_no_json_are_refused(text: str) -> None:
    """Key rules that are not JSON are refused."""
    with suppress(InvalidRequest, AccessDenied):
        parse_key_rules(text)


@examples(400)
@given(texts_like("^/orders/[0-9]+$", "(a|b)*c", "(?i)x{1,9}", "\\pL+", "[[:digit:]]"), texts_like(*PATHS))
def test_an_expression_is_matched_or_refused(url: str, path: str) -> None:
    """An expression matches in linear time, or is refused by name."""
    with suppress(ValueError):
        compiled(url).search(path.encode())


@examples(300)
@given(st.dictionaries(st.sampled_from(["tier", "name", "deep", "flag"]), documents | any_text | pieces))
def test_metadata_becomes_headers_that_can_be_sent(meta_data: dict[str, Any]) -> None:
    """Metadata becomes printable ASCII without line breaks (RFC 9110 §5.5)."""
    headers = injected_headers(API, meta_data)
    assert set(headers) == {header["name"] for header in HEADERS}
    assert all(value.isascii() and value.isprintable() for value in headers.values())
