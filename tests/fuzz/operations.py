"""Generates requests for the operations in the OpenAPI documents, and checks the responses against them."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import schemathesis
import yaml
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from contracts.operations import JSON, YAML, Caller, Operation, Service
from services.operation_catalog import operations_by
from tests.fuzz.extent import examples
from tests.fuzz.models import BODIES, HEADERS, QUERIES
from tests.fuzz.records import Records
from tests.fuzz.running import ANSWER_WITHIN, Running
from tests.fuzz.strange import bytes_like, documents_like, json_bytes, texts_like, yaml_bytes

DOCUMENTS = Path(__file__).parents[2] / "contracts" / "generated" / "openapi"
CONFORMANCE = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
LISTENED_WITHIN = 0.5
"""Seconds after which an endless stream is closed."""
CREDENTIALS = {
    Caller.ANYBODY: [""],
    Caller.CLIENT: ["Basic REAL_BASIC"],
    Caller.OPERATOR: ["REAL_KEY", "Bearer REAL_KEY"],
    Caller.CLIENT_OR_OPERATOR: ["Basic REAL_BASIC", "REAL_KEY"],
    Caller.TOKEN_HOLDER: ["Bearer REAL_ACCESS"],
}
_SENDABLE = re.compile(r"[!-~]([ -~]*[!-~])?")
_FRAMING = frozenset(
    {"connection", "content-length", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Message framing headers; wrong values are tested in test_raw_http."""
_WRITERS = {JSON: json_bytes, YAML: yaml_bytes}


def each_operation(service: Service) -> pytest.MarkDecorator:
    """Parametrises a test with every operation of the service."""
    own = [operation for operation in operations_by(service) if operation.service is service]
    return pytest.mark.parametrize("operation", [pytest.param(each, id=each.name) for each in own])


@cache
def _described(service: Service) -> Any:
    return schemathesis.openapi.from_dict(yaml.safe_load((DOCUMENTS / f"{service}.yaml").read_text()))


@st.composite
def cases(draw: st.DrawFn, operation: Operation) -> Any:
    """Valid and invalid requests for the operation, most with real ids and credentials."""
    described = _described(operation.service).find_operation_by_id(operation.name)
    mode = draw(st.sampled_from(list(GenerationMode)))
    case = draw(described.as_strategy(generation_mode=mode))
    for name in re.findall(r"{(\w+)}", operation.path):
        if not draw(_one_in(6)):
            case.path_parameters[name] = _in_path(draw(_mostly(_real(operation, name))))
    if operation.parameters and operation.parameters.location == "query" and not draw(_one_in(3)):
        case.query = _only_texts(draw(documents_like(QUERIES.get(operation.name, {"p": "1"}))))
    if operation.name in HEADERS and not draw(_one_in(3)):
        said = {name: draw(_mostly(value)) for name, value in HEADERS[operation.name].items()}
        case.headers.update({name: value for name, value in said.items() if _SENDABLE.fullmatch(value)})
    if operation.body and not draw(_one_in(4)):
        case.media_type = draw(st.sampled_from(operation.body.media_types))
        case.body = draw(_bodies(BODIES[operation.name], case.media_type))
    for name in _FRAMING.intersection(map(str.lower, case.headers)):
        del case.headers[name]
    _authorize(draw, case, operation)
    return case


def _real(operation: Operation, name: str) -> str:
    return "REAL_NEW" if operation.name == "addResourceOwner" else f"REAL_{name.upper()}"


def _authorize(draw: st.DrawFn, case: Any, operation: Operation) -> None:
    if draw(_one_in(8)):
        return  # as schemathesis has it
    value = draw(st.sampled_from(CREDENTIALS[operation.caller]).flatmap(_mostly))
    if _SENDABLE.fullmatch(value):
        case.headers["Authorization"] = value
    else:
        case.headers.pop("Authorization", None)


def _one_in(number: int) -> st.SearchStrategy[bool]:
    return st.integers(1, number).map(lambda drawn: drawn == number // 2 + 1)  # favours the two ends


def _mostly(text: str) -> st.SearchStrategy[str]:
    return _one_in(8).flatmap(lambda strange: texts_like(text) if strange else st.just(text))


def _in_path(text: str) -> str:
    quoted = quote(text, safe="", errors="replace")
    return quoted if quoted.strip(".") else "-"  # one path segment, which no client normalises away


def _only_texts(query: Any) -> dict[str, Any]:
    if not isinstance(query, dict):
        return {"p": str(query)}
    return {_text(name): _text(value) for name, value in query.items()}


def _text(value: Any) -> str:
    return str(value)[:2000].encode(errors="replace").decode()


def _bodies(models: Sequence[dict[str, Any]], media_type: str) -> st.SearchStrategy[bytes]:
    bent = documents_like(*models).map(lambda document: written(document, media_type))
    return bent | bent.flatmap(bytes_like)


def written(document: Any, media_type: str) -> bytes:
    """The document in this format."""
    return _WRITERS.get(media_type, _form_bytes)(document)


def _form_bytes(document: Any) -> bytes:
    members = document.items() if isinstance(document, dict) else [("", document)]
    pairs = [(name, value if isinstance(value, str) else json_bytes(value)) for name, value in members]
    return urlencode(pairs, errors="surrogatepass").encode()


def fuzz(running: Running, operation: Operation, count: int) -> None:
    """Every response matches its description, and the log has no unexpected error."""
    since, records = running.logged, [Records(running)]

    @examples(count)
    @given(cases(operation))
    def attempt(case: Any) -> None:
        response = _sent(case, running, records[-1], operation)
        case.validate_response(response, checks=CONFORMANCE)
        if operation.method == "GET" or operation.name == "introspect":
            return
        records[-1].spend()
        if response.status_code < 300 and operation.method in {"PUT", "DELETE"}:
            records.append(Records(running))

    attempt()
    assert running.troubles(since) == []


def _sent(case: Any, running: Running, records: Records, operation: Operation) -> Any:
    case.path_parameters = records.resolved_all(case.path_parameters or {})
    case.query = records.resolved_all(case.query or {})
    case.headers.update(records.resolved_all(dict(case.headers)))
    case.body = records.resolved_all(case.body)
    within = LISTENED_WITHIN if operation.name == "streamEvents" else ANSWER_WITHIN
    return case.call(base_url=running.url, session=running.http, timeout=within)
