"""A recorded request as samples show it: secrets are replaced by the names of environment variables."""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from contracts.operations import FORM

BASE_URL = "http://127.0.0.1:8080"
LONGEST_URL = 100
_BY_PREFIX = {"tw_at_": "ACCESS_TOKEN", "tw_rt_": "REFRESH_TOKEN", "tw_ac_": "CODE", "tw_ok_": "OPERATOR_KEY"}
_BY_FIELD = {
    "client_secret": "CLIENT_SECRET",
    "code_verifier": "CODE_VERIFIER",
    "password": "PASSWORD",
    "secret": "CLIENT_SECRET",
    "sharedSecret": "SHARED_SECRET",
}
_SECRET = re.compile(rf"(?:{'|'.join(_BY_PREFIX)})[\w-]+|\$OPERATOR_KEY")
_VARIABLE = re.compile("\ue000(\\w+)\ue001")
"""A variable in a text: its name between two characters that no request contains."""


@dataclass(frozen=True)
class Shown:
    """A request to show, and what its response is. Texts contain variables; see `pieces`."""

    method: str
    url: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    client_credentials: bool
    """The client authenticates with HTTP Basic, CLIENT_ID and CLIENT_SECRET."""
    form: Mapping[str, str] | None
    json: Any
    """None: no JSON body."""
    response: str
    """`json`, `text`, `stream` (never ends), `redirect` or `none`."""
    variables: Mapping[str, str]
    """The names of the environment variables, with the values that the recorded request had."""

    @property
    def whole_url(self) -> str:
        """The URL with its query. Raises ValueError if that has variables, which would have to be encoded."""
        if has_variables(self.query):
            raise ValueError(f"{self.url}: a query with a secret and a body")
        return f"{self.url}?{urlencode(self.query, quote_via=quote)}" if self.query else self.url

    @property
    def short_url(self) -> str:
        """The URL with its query; empty if a sample needs lines of its own for the query, which is long or secret."""
        if has_variables(self.query):
            return ""
        return self.whole_url if not self.query or len(self.whole_url) <= LONGEST_URL else ""


def variable(name: str) -> str:
    """A text that stands for the environment variable."""
    return f"\ue000{name}\ue001"


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """The parts of a text that are not empty, each with whether it is the name of a variable."""
    for number, piece in enumerate(_VARIABLE.split(text)):
        if piece:
            yield piece, bool(number % 2)


def has_variables(value: Any) -> bool:
    """Whether a text somewhere in the value has a variable."""
    return bool(names_in(value))


def names_in(value: Any) -> list[str]:
    """The names of the variables in all texts of the value, each once."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return list(dict.fromkeys(name for each in value for name in names_in(each)))
    return [piece for piece, is_variable in pieces(value) if is_variable] if isinstance(value, str) else []


def shown(example: Mapping[str, Any]) -> Shown:
    """The request of a recorded example."""
    request, variables = example["request"], dict[str, str]()
    hide = partial(_hidden, variables)
    headers = dict(request.get("headers", {}))
    client_credentials = headers.get("Authorization", "").startswith("Basic ")
    if client_credentials:
        decoded = base64.b64decode(headers.pop("Authorization").removeprefix("Basic ")).decode()
        variables["CLIENT_ID"], _, variables["CLIENT_SECRET"] = decoded.partition(":")
    is_form = request.get("media_type") == FORM
    body = hide(request.get("body"))
    return Shown(
        method=request["method"],
        url=BASE_URL + hide(request["target"]),
        query=hide(request.get("query", {})),
        headers=hide(headers),
        client_credentials=client_credentials,
        form=body if is_form else None,
        json=None if is_form else body,
        response=_kind(request, example["response"]),
        variables=variables,
    )


def _hidden(variables: dict[str, str], value: Any, field: str = "") -> Any:
    """The value with variables for its secrets, which are added to the collection."""
    if isinstance(value, Mapping):
        return {name: _hidden(variables, each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_hidden(variables, each) for each in value]
    if not isinstance(value, str):
        return value
    if field in _BY_FIELD:
        variables[_BY_FIELD[field]] = value
        return variable(_BY_FIELD[field])
    return _SECRET.sub(partial(_named, variables), value)


def _named(variables: dict[str, str], found: re.Match[str]) -> str:
    name = _BY_PREFIX.get(found[0][:6], "OPERATOR_KEY")
    variables[name] = found[0]
    return variable(name)


def _kind(request: Mapping[str, Any], response: Mapping[str, Any]) -> str:
    if 300 <= response["status"] < 400:
        return "redirect"
    if request["target"].endswith("/stream"):
        return "stream"
    if "body" not in response:
        return "none"
    return "text" if isinstance(response["body"], str) else "json"
