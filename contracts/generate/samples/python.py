"""A request in Python, with `requests`."""

from collections.abc import Iterator
from typing import Any

from contracts.generate.samples.literals import PYTHON, Code
from contracts.generate.samples.requests import Shown

_FAILED = 'if not response.ok:\n    raise SystemExit(f"{response.status_code}: {response.text}")\n'
_RESULTS = {
    "json": "print(response.json())",
    "text": "print(response.text)",
    "stream": "for line in response.iter_lines(decode_unicode=True):\n    print(line)",
    "redirect": 'print(response.status_code, response.headers["Location"])',
    "none": "print(response.status_code)",
}


def python(request: Shown) -> str:
    """A module that sends the request and prints the response."""
    arguments = "".join(f"    {argument},\n" for argument in _arguments(request))
    imports = "import os\n\nimport requests\n" if request.variables else "import requests\n"
    call = f"response = requests.{request.method.lower()}(\n{arguments})\n"
    return f"{imports}\n{call}{_FAILED}{_RESULTS[request.response]}\n"


def _arguments(request: Shown) -> Iterator[str]:
    yield PYTHON.literal(request.url, 1)
    for name, value in _named(request).items():
        yield f"{name}={PYTHON.literal(value, 1, len(name) + 1)}"


def _named(request: Shown) -> dict[str, Any]:
    credentials = Code('(os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"])')
    given = {
        "params": request.query or None,
        "auth": credentials if request.client_credentials else None,
        "headers": request.headers or None,
        "data": request.form or None,
        "json": request.json,
        "allow_redirects": False if request.response == "redirect" else None,
        "stream": True if request.response == "stream" else None,
        "timeout": 30,
    }
    return {name: value for name, value in given.items() if value is not None}
