"""A request in JavaScript, with `fetch`, as a module for Node.js 18 or later."""

from collections.abc import Iterator
from typing import Any

from contracts.generate.samples.literals import JAVASCRIPT, Call, Code
from contracts.generate.samples.requests import Shown

_FAILED = "if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);\n"
_RESULTS = {
    "json": f"{_FAILED}console.log(JSON.stringify(await response.json(), null, 2));\n",
    "text": f"{_FAILED}console.log(await response.text());\n",
    "stream": f"{_FAILED}for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {{\n"
    "  process.stdout.write(chunk);\n}\n",
    "redirect": 'console.log(response.status, response.headers.get("Location"));\n',
    "none": f"{_FAILED}console.log(response.status);\n",
}


def javascript(request: Shown) -> str:
    """A module that sends the request and prints the response."""
    call = f"const response = await fetch({_url(request)}"
    if options := _options(request):
        call += f", {JAVASCRIPT.literal(options, 0, len(call) + 4)}"
    return f"{''.join(_constants(request))}{call});\n{_RESULTS[request.response]}"


def _constants(request: Shown) -> Iterator[str]:
    if not request.short_url:
        literal = JAVASCRIPT.literal(Call("new URLSearchParams", request.query), 0, len("const query = ;"))
        yield f"const query = {literal};\n"
    if request.client_credentials:
        yield "const credentials = btoa(`${process.env.CLIENT_ID}:${process.env.CLIENT_SECRET}`);\n"


def _url(request: Shown) -> str:
    if request.short_url:
        return JAVASCRIPT.literal(request.short_url)
    return f"{JAVASCRIPT.literal(request.url + '?')} + query"


def _options(request: Shown) -> dict[str, Any]:
    headers: dict[str, Any] = dict(request.headers)
    if request.client_credentials:
        headers = {"Authorization": Code("`Basic ${credentials}`"), **headers}
    body: Call | None = None
    if request.json is not None:
        headers["Content-Type"] = "application/json"
        body = Call("JSON.stringify", request.json)
    elif request.form:
        body = Call("new URLSearchParams", request.form)
    given = {
        "method": request.method if request.method != "GET" else None,
        "headers": headers or None,
        "body": body,
        "redirect": "manual" if request.response == "redirect" else None,
    }
    return {name: value for name, value in given.items() if value is not None}
