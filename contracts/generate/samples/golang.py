"""A request in Go, with `net/http`, formatted as gofmt does."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from contracts.generate.samples.literals import json_text, quoted
from contracts.generate.samples.requests import Shown, has_variables, names_in, pieces, variable

ONE_LINE = 100
"""The most characters of a composite literal, which is on one line, since gofmt aligns those on several."""
_ERROR = "\tif err != nil {\n\t\tlog.Fatal(err)\n\t}\n"
_KEEP_REDIRECTS = """\
	client := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
"""
_RESULTS = {
    "redirect": '\tfmt.Println(response.Status, response.Header.Get("Location"))\n',
    "none": "\tfmt.Println(response.Status)\n",
}
_COPY = "\tif _, err := io.Copy(os.Stdout, response.Body); err != nil {\n\t\tlog.Fatal(err)\n\t}\n"


def golang(request: Shown) -> str:
    """A program that sends the request and prints status and body."""
    main = "".join(_statements(request))
    names = ("bytes", "encoding/json", "fmt", "io", "log", "net/http", "net/url", "os", "strings")
    used = [name for name in names if re.search(rf"\b{name.rpartition('/')[2]}\.[A-Z]", main)]
    imports = "".join(f"\t{quoted(name)}\n" for name in used)
    return f"package main\n\nimport (\n{imports})\n\nfunc main() {{\n{main}}}\n"


def _statements(request: Shown) -> Iterator[str]:
    preparation, body = _body(request)
    yield preparation
    if not request.short_url:
        yield from _values("query", request.query)
    yield f"\trequest, err := http.NewRequest({quoted(request.method)}, {_url(request)}, {body})\n{_ERROR}"
    if request.client_credentials:
        yield '\trequest.SetBasicAuth(os.Getenv("CLIENT_ID"), os.Getenv("CLIENT_SECRET"))\n'
    for name, value in _headers(request).items():
        yield f"\trequest.Header.Set({quoted(name)}, {_argument(value)})\n"
    if request.response == "redirect":
        yield _KEEP_REDIRECTS
    client = "client" if request.response == "redirect" else "http.DefaultClient"
    yield f"\tresponse, err := {client}.Do(request)\n{_ERROR}\tdefer response.Body.Close()\n"
    yield _RESULTS.get(request.response) or _RESULTS["none"] + _COPY


def _url(request: Shown) -> str:
    return _argument(request.short_url) if request.short_url else f"{_argument(request.url + '?')}+query.Encode()"


def _values(name: str, values: Mapping[str, str]) -> Iterator[str]:
    yield f"\t{name} := url.Values{{}}\n"
    for key, value in values.items():
        yield f"\t{name}.Set({quoted(key)}, {_argument(value)})\n"


def _headers(request: Shown) -> dict[str, str]:
    headers = dict(request.headers)
    if request.json is not None:
        headers["Content-Type"] = "application/json"
    elif request.form:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    return headers


def _body(request: Shown) -> tuple[str, str]:
    """Statements that prepare the body, and the expression for its reader."""
    if request.form:
        return "".join(_values("form", request.form)), "strings.NewReader(form.Encode())"
    if request.json is None:
        return "", "nil"
    literal = _literal(request.json)
    if has_variables(request.json) and len(literal) <= ONE_LINE:
        return f"\tbody, err := json.Marshal({literal})\n{_ERROR}", "bytes.NewReader(body)"
    encoded: dict[str, str] = {}

    def insert(text: str) -> str:
        return variable(encoded.setdefault(text, f"{_name_of(text)}{len(encoded) or ''}"))

    body = _raw(json_text(request.json, insert))
    preparation = "".join(f"\t{name}, err := json.Marshal({_text(text)})\n{_ERROR}" for text, name in encoded.items())
    return f"{preparation}\tbody := strings.NewReader({body})\n", "body"


def _name_of(text: str) -> str:
    """A name for the JSON of a text, after its first variable."""
    first, *others = names_in(text)[0].lower().split("_")
    return first + "".join(map(str.capitalize, others))


def _literal(value: Any) -> str:
    """A JSON value as a composite literal on one line."""
    if isinstance(value, Mapping):
        return f"map[string]any{{{', '.join(f'{quoted(name)}: {_literal(each)}' for name, each in value.items())}}}"
    if isinstance(value, list):
        return f"[]any{{{', '.join(map(_literal, value))}}}"
    if isinstance(value, str):
        return _text(value)
    return "nil" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _text(text: str) -> str:
    """A text as an expression."""
    return " + ".join(f'os.Getenv("{piece}")' if is_variable else quoted(piece) for piece, is_variable in pieces(text))


def _argument(text: str) -> str:
    """A text as one of several arguments, between whose operators gofmt leaves no space."""
    return "+".join(f'os.Getenv("{piece}")' if is_variable else quoted(piece) for piece, is_variable in pieces(text))


def _raw(text: str) -> str:
    """A text as an expression, of raw strings where they can be, and of variables that are bytes."""
    return " + ".join(
        f"string({piece})" if is_variable else f"`{piece}`" if "`" not in piece else quoted(piece)
        for piece, is_variable in pieces(text)
    )
