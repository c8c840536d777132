"""The code samples in the OpenAPI documents do what they show: each is run in its language, against the services.

The scenario of tests/services/test_operation_examples.py calls every operation; here a sample sends each request.
"""

import ast
import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tree_sitter_go
from aiohttp import web
from aiohttp.test_utils import TestServer
from tree_sitter import Language, Parser

from contracts.generate.examples import examples
from contracts.generate.samples import LANGUAGES, code_samples
from contracts.generate.samples.curl import curl
from contracts.generate.samples.golang import golang
from contracts.generate.samples.javascript import javascript
from contracts.generate.samples.python import python
from contracts.generate.samples.requests import BASE_URL, Shown, shown, variable
from contracts.operations import Operation
from contracts.operators import Permission
from libs.bus.local import LocalBroker, LocalBus
from tests.builders import Caller, Response, make_operator
from tests.notifications import Receiver, answering, database_of_its_own, notifier, receiver
from tests.provision import debian
from tests.services.system import System, open_system
from tests.services.test_operation_examples import BY_NAME, OPERATOR_KEY, Recording, run

AWKWARD = "a'b\"c\\d`e$f!g{h}i%j&k=l+m n${o}<ü>"
"""Characters that mean something to a shell, in a URL or in a literal."""
SECRET = 'it\'s "$HOME" `id` \\ {x}'
HOSTILE = {
    "SECRET": SECRET,
    "QUOTE": '"',
    "BACKSLASH": "\\",
    "ESCAPE": '\\"\\n\\u0041\\(1)',
    "FILE": "@/etc/passwd",
    "OPTION": "-o $(id) --next ${HOME} !! *",
    "ENCODED": "%41+b&c=d#e?f;g%",
    "TEMPLATE": "{x} %s ${y} {{z}} `${1}`",
    "LINES": "two\nlines\tand a tab",
    "WORLD": "pässwörd € 🔑",
}
"""Secrets that mean something to a shell, to JSON, to jq, to a URL or to a literal of a language."""
GO = Parser(Language(tree_sitter_go.language()))
BUT_THE_STREAM = BY_NAME.keys() - {"streamEvents"}


@pytest.fixture(scope="module", name="_jq", autouse=True)
def _provided_jq() -> Path:
    """jq, which the samples for curl use, from Debian's package if it is missing."""
    return debian.provided("jq", "jq", "put jq on PATH")


@pytest.fixture(scope="module", name="node_clients")
def _node() -> Path:
    """Node, from Debian's package if it is missing."""
    return debian.provided("node", "nodejs", "put Node.js 18 or later on PATH")


async def ran(command: list[str | Path], directory: Path, variables: Mapping[str, str]) -> tuple[str, str]:
    """Standard output and error of the command, which must succeed. It sees only these variables."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        env={"PATH": os.environ["PATH"], "CURL_HOME": str(directory), "NO_PROXY": "*", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, (command, out.decode(), errors.decode())
    return out.decode(), errors.decode()


class Runner:
    """Runs samples of one language in a directory."""

    def __init__(self, write: Callable[[Shown], str], directory: Path, node: Path | None = None) -> None:
        self.write, self._directory, self._node = write, directory, node
        (directory / ".curlrc").write_text('silent\nshow-error\nwrite-out = "%{stderr}%{http_code}"\n')

    async def __call__(self, source: str, request: Shown, status: int, variables: Mapping[str, str]) -> Response:
        """The response as the sample printed it."""
        if self.write is curl:
            out, code = await ran(["sh", "-c", source], self._directory, variables)
            return Response(int(code), {}, out.encode())
        file = self._directory / ("sample.py" if self.write is python else "sample.mjs")
        file.write_text(source, encoding="utf-8")
        out, _ = await ran([sys.executable if self._node is None else self._node, file], self._directory, variables)
        if request.response in {"redirect", "none"}:
            assert out.split()[0] == str(status)
        in_python = self.write is python and request.response == "json"
        return Response(status, {}, json.dumps(ast.literal_eval(out)).encode() if in_python else out.encode())


class Samples(Recording):
    """Sends each request by the sample that shows it."""

    def __init__(self, system: System, other: Caller, key: str, received: Receiver, runner: Runner) -> None:
        super().__init__(system, other, key, received)
        self._runner = runner
        self.ran: set[str] = set()

    async def send(
        self, caller: Caller, operation: Operation, method: str, target: str, asked: dict[str, Any]
    ) -> Response:
        """Run the sample of this request, with its secrets in the environment."""
        self.ran.add(operation.name)
        recorded = examples()[operation.name]["response"]
        request = shown({"request": self._request(operation, method, target, asked), "response": recorded})
        source = self._runner.write(request)
        known = {self.key, *request.variables.values()} - {OPERATOR_KEY}
        assert not [secret for secret in known if secret in source]
        source = source.replace(BASE_URL, str(caller.http.make_url("/")).rstrip("/"))
        secrets = {name: self.key if value == OPERATOR_KEY else value for name, value in request.variables.items()}
        return await self._runner(source, request, recorded["status"], secrets)

    def _request(self, operation: Operation, method: str, target: str, asked: dict[str, Any]) -> dict[str, Any]:
        headers = {name: OPERATOR_KEY if value == self.key else value for name, value in asked["headers"].items()}
        request: dict[str, Any] = {"method": method, "target": target, "headers": headers}
        if asked["params"]:
            request["query"] = asked["params"]
        if "json" in asked or "data" in asked:
            request["media_type"] = "application/json" if "json" in asked else "application/x-www-form-urlencoded"
            request["body"] = asked.get("json", asked.get("data"))
        return request

    def _example(self, *_: Any) -> dict[str, Any]:
        return {}


async def every_operation(mongodb_url: str, runner: Runner) -> set[str]:
    """Run the scenario by samples; the names of the operations that were called."""
    broker, database = LocalBroker(), database_of_its_own()
    async with (
        receiver() as received,
        open_system(mongodb_url, database, bus=LocalBus(broker), notifier=False, tyk_gateway_api=True) as system,
        notifier(mongodb_url, database, broker=broker) as sender,
    ):
        received.behave(answering(503), "/tokens")
        key = await make_operator(system.deps, Permission.ADMIN)
        samples = Samples(system, sender.anybody, key, received, runner)
        await run(samples, system, received)
    return samples.ran


@pytest.mark.parametrize("write", [curl, python], ids=["curl", "python"])
async def test_each_sample_for_curl_and_python_works(
    mongodb_url: str, tmp_path: Path, write: Callable[[Shown], str]
) -> None:
    """The whole scenario, with one sample for each request, secrets in the environment only."""
    assert await every_operation(mongodb_url, Runner(write, tmp_path)) == BUT_THE_STREAM


async def test_each_sample_for_javascript_works(mongodb_url: str, tmp_path: Path, node_clients: Path) -> None:
    """The same with Node."""
    runner = Runner(javascript, tmp_path, node_clients)
    assert await every_operation(mongodb_url, runner) == BUT_THE_STREAM


def stream_command(write: Callable[[Shown], str], url: str, node: Path | None, directory: Path) -> list[str | Path]:
    """The sample for the stream of events, as a command."""
    source = write(shown(examples()["streamEvents"])).replace(BASE_URL, url)
    if write is curl:
        return ["sh", "-c", f"exec {source}"]
    file = directory / ("sample.py" if write is python else "sample.mjs")
    file.write_text(source, encoding="utf-8")
    return [node or sys.executable, file]


async def first_data(command: list[str | Path], key: str, happen: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    """The first event that the command prints, when this happens after it has connected."""
    variables = {"PATH": os.environ["PATH"], "OPERATOR_KEY": key, "PYTHONUNBUFFERED": "1", "NO_PROXY": "*"}
    process = await asyncio.create_subprocess_exec(*command, env=variables, stdout=subprocess.PIPE)
    assert process.stdout
    try:
        async with asyncio.timeout(60):
            while b"connected" not in await process.stdout.readline():
                pass
            await happen()
            while not (line := await process.stdout.readline()).startswith(b"data:"):
                pass
    finally:
        process.kill()
        await process.wait()
    event: dict[str, Any] = json.loads(line.removeprefix(b"data:"))
    return event


async def test_the_samples_for_the_stream_print_events_as_they_happen(
    mongodb_url: str, tmp_path: Path, node_clients: Path
) -> None:
    """In each language that is run here, without an end of the response."""
    async with open_system(mongodb_url) as system:
        key, url = await make_operator(system.deps, Permission.ADMIN), str(system.call.http.make_url("/")).rstrip("/")
        for write, node in ((curl, None), (python, None), (javascript, node_clients)):
            command = stream_command(write, url, node, tmp_path)
            event = await first_data(command, key, system.party)
            assert event["type"].startswith("io.tokenwire."), event


# What cannot be run, and what must not be mistaken


@asynccontextmanager
async def echo() -> AsyncIterator[str]:
    """A server that returns what it understood of a request."""

    async def handler(request: web.Request) -> web.Response:
        form = dict(await request.post()) if request.content_type.endswith("form-urlencoded") else None
        body = await request.json() if request.content_type.endswith("json") else None
        headers = {name: request.headers.get(name, "") for name in ("X-Awkward", "Authorization")}
        return web.json_response({"query": dict(request.query), "form": form, "json": body, **headers})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        yield str(server.make_url("/")).rstrip("/")


def every_secret() -> dict[str, str]:
    """A variable of each, alone and inside of a text."""
    alone = {name.lower(): variable(name) for name in HOSTILE}
    return alone | {f"in_{name.lower()}": f'<"{variable(name)}">' for name in HOSTILE}


def awkward(**body: Any) -> Shown:
    """A request full of characters that have to be quoted."""
    ascii_only, secret = AWKWARD.replace("ü", ""), variable("SECRET")
    fields: dict[str, Any] = {"form": None, "json": None, **body}
    return Shown(
        "POST",
        f"{BASE_URL}/echo",
        {"q": AWKWARD} if body else {AWKWARD: AWKWARD, **every_secret()},
        {"X-Awkward": ascii_only, "Authorization": f"Bearer {secret}"},
        False,
        response="json",
        variables=HOSTILE,
        **fields,
    )


@pytest.mark.parametrize("body", ["form", "json", "query"])
async def test_a_sample_quotes_every_character(body: str, tmp_path: Path, node_clients: Path) -> None:
    """Header, query, form and JSON arrive as they are, in curl, Python and JavaScript; secrets are never evaluated."""
    value: dict[str, Any] = {AWKWARD: AWKWARD, **every_secret()}
    arrived = {AWKWARD: AWKWARD} | {name.lower(): secret for name, secret in HOSTILE.items()}
    arrived |= {f"in_{name.lower()}": f'<"{secret}">' for name, secret in HOSTILE.items()}
    request = awkward(**({} if body == "query" else {body: value}))
    query = arrived if body == "query" else {"q": AWKWARD}
    expected: dict[str, Any] = {"form": None, "json": None, body: arrived, "query": query}
    expected |= {"X-Awkward": AWKWARD.replace("ü", ""), "Authorization": f"Bearer {SECRET}"}
    async with echo() as url:
        for write, node in ((curl, None), (python, None), (javascript, node_clients)):
            source = write(request).replace(BASE_URL, url)
            response = await Runner(write, tmp_path, node)(source, request, 200, HOSTILE)
            assert response.body == expected, source


@pytest.mark.parametrize("secret", [SECRET, HOSTILE["ESCAPE"], HOSTILE["ENCODED"], HOSTILE["FILE"], "a:b:"])
async def test_a_sample_sends_every_client_secret(secret: str, tmp_path: Path, node_clients: Path) -> None:
    """With HTTP Basic, as it is; the server takes it encoded or not."""
    request = replace(awkward(form={"a": "b"}), client_credentials=True, headers={})
    variables = {"CLIENT_ID": "orders", "CLIENT_SECRET": secret}
    expected = f"Basic {base64.b64encode(f'orders:{secret}'.encode()).decode()}"
    async with echo() as url:
        for write, node in ((curl, None), (python, None), (javascript, node_clients)):
            source = write(request).replace(BASE_URL, url)
            response = await Runner(write, tmp_path, node)(source, request, 200, variables)
            assert response.body["Authorization"] == expected, source


def test_a_sample_for_go_encodes_what_it_inserts_into_json() -> None:
    """Also in a body that is too long for one line: a quote in a secret would end a text of the body."""
    body = {"secret": variable("SHARED_SECRET"), "note": f"not {variable('PASSWORD')}", "long": "x" * 100}
    source = golang(awkward(json=body))
    assert not go_errors(source)
    assert 'sharedSecret, err := json.Marshal(os.Getenv("SHARED_SECRET"))' in source
    assert 'password1, err := json.Marshal("not " + os.Getenv("PASSWORD"))' in source
    assert '{\n  "secret": ` + string(sharedSecret) + `,\n  "note": ` + string(password1) + `,' in source


async def test_a_refused_sample_says_why(tmp_path: Path, node_clients: Path) -> None:
    """The body of an error is printed: it says what is wrong."""

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": "invalid_grant", "error_description": "the code has expired"}, status=400)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    async with TestServer(app) as server:
        for write, node in ((curl, None), (python, None), (javascript, node_clients)):
            source = write(awkward(form={"a": "b"})).replace(BASE_URL, str(server.make_url("/")).rstrip("/"))
            file = tmp_path / ("sample.mjs" if node else "sample")
            file.write_text(source, encoding="utf-8")
            command = ["sh" if write is curl else node or sys.executable, file]
            done = await asyncio.create_subprocess_exec(
                *command, env={**os.environ, **HOSTILE}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            said, _ = await done.communicate()
            assert b"the code has expired" in said
            assert (done.returncode == 0) is (write is curl)


def go_errors(source: str) -> bool:
    return GO.parse(source.encode()).root_node.has_error


async def test_the_samples_for_go_are_go(tmp_path: Path) -> None:
    """A parser accepts each; and, where there is Go, gofmt would change nothing and `go vet` finds nothing."""
    assert go_errors("package main\n\nfunc main() { x := }\n")
    sources = {name: golang(shown(example)) for name, example in examples().items()}
    sources |= {"awkwardForm": golang(awkward(form={AWKWARD: AWKWARD}))}
    sources |= {"awkwardJson": golang(awkward(json={AWKWARD: [AWKWARD, 1, None, True, variable("SECRET")]}))}
    assert [name for name, source in sources.items() if go_errors(source)] == []
    for name, source in sources.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "main.go").write_text(source, encoding="utf-8")
    if gofmt := debian.program("gofmt"):
        assert await ran([gofmt, "-l", "."], tmp_path, {}) == ("", "")
    if go := debian.program("go"):
        (tmp_path / "go.mod").write_text("module samples\n\ngo 1.18\n")
        await ran([go, "vet", "./..."], tmp_path, {"HOME": str(tmp_path), "GOFLAGS": "-mod=mod"})


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_an_operation_has_a_sample_in_each_language_without_secrets(name: str) -> None:
    """And each names the environment variables that it reads."""
    request = shown(examples()[name])
    samples = code_samples(examples()[name])
    assert [sample["label"] for sample in samples] == list(LANGUAGES)
    for sample in samples:
        for variable_name, secret in request.variables.items():
            assert variable_name in sample["source"]
            assert secret not in sample["source"] or secret == OPERATOR_KEY
        assert "tw_" not in sample["source"]
