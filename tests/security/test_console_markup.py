"""Text that others wrote is text on every page of the console, whatever it contains: never markup, never a script."""

import html
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from justhtml import JustHTML
from pymongo import ReplaceOne

from contracts.operators import Permission
from contracts.policies import Policy
from contracts.webhooks import Attempt, DeliveryState
from libs import client_secrets
from libs.precis import prepare_username
from libs.tyk.oas import read_oas
from services.console.app import PAGES
from services.console.session_cookies import PATH
from tests import seed
from tests.builders import make_operator, make_policy, settle
from tests.notifications import stored
from tests.services.console_browser import DOCUMENTED, NO_PAGE, Browser, console_of
from tests.services.system import Party, System, document, open_system

NASTY = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    '" autofocus onfocus="alert(1)',
    "</textarea><script>alert(1)</script>",
    "</title><svg onload=alert(1)>",
    "</pre></details></dialog><form action=https://evil.example><button>",
    "<!--", "-->", "<![CDATA[", "]]>", "<a href='javascript:alert(1)'>", "javascript:alert(1)",
    "{{ 7 * 7 }}", "{% include 'base.html' %}", "{# a comment", "${7*7}", "&lt;b&gt;", "&#x3c;b&#x3e;",
    "https://evil.example/?a=b&c=d#e", "//evil.example/", "..\\..\\", "%3Cscript%3E", "a\r\nSet-Cookie: b=c",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe", "\N{ZERO WIDTH SPACE}", "\N{LINE SEPARATOR}", "\x85",
    "\N{COMBINING ACUTE ACCENT}" * 200, "W" * 1000, "word " * 200, "<" * 500,
)  # fmt: skip
STRANGE = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=80) | st.sampled_from(NASTY)
_ID_CHARACTERS = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "/")
STRANGE_ID = st.text(_ID_CHARACTERS, max_size=60) | st.sampled_from(
    ["<script>alert(1)<", '"><img src=x onerror=alert(1)>', "a?b=c#d", "%2e%2e", "..;a", "'><b>", "&amp;", "a%2Fb"]
)
"""Client ids may have every printable ASCII character but a slash."""


@dataclass(frozen=True)
class Texts:
    """One text for each field that somebody else than the operator writes."""

    client_id: str = "client"
    client_name: str = "plain"
    description: str = "plain"
    redirect_uri: str = "plain"
    key: str = "plain"
    value: str = "plain"
    api_name: str = "plain"
    policy_name: str = "plain"
    tag: str = "plain"
    allowed_url: str = "plain"
    username: str = "plain"
    subject: str = "plain"
    operator: str = "plain"
    error: str = "plain"
    response: str = "plain"
    record: str = "plain"
    reason: str = "plain"
    typed: str = "plain"


def _name(text: str) -> str:
    """As a name: without line breaks, at most 256 characters, not empty."""
    return re.sub(r"[\x00-\x1f\x7f]", " ", text)[:256].strip() or "plain"


def _username(text: str) -> str:
    """As the management API prepares it: a user cannot have another name."""
    return prepare_username(_name(text.replace("/", "|"))) or "plain"


def _client_id(text: str) -> str:
    name = text.strip()[:128].strip()
    return name if name not in {"", ".", ".."} else "plain"


_FIELDS = {
    **dict.fromkeys(Texts.__dataclass_fields__, STRANGE.map(_name)),
    "client_id": STRANGE_ID.map(_client_id),
    "username": STRANGE.map(_username),
    **dict.fromkeys(("description", "error", "response"), STRANGE.map(lambda text: text[:1000].strip() or "plain")),
}


@dataclass(repr=False)
class Exhibit:
    """One record of each kind, whose texts can be replaced, and every page that shows one of them."""

    system: System
    browser: Browser
    party: Party
    policy: Policy
    operator_id: str
    username: str
    grant_id: str
    delivery_id: str
    change_id: str
    texts: Texts = field(default_factory=Texts)
    client_id: str = ""

    @property
    def named(self) -> Mapping[str, str]:
        """The parts of paths."""
        return {
            **DOCUMENTED,
            "api_id": self.party.api.api_id,
            "client_id": self.client_id or self.party.id,
            "policy_id": self.policy.policy_id,
            "username": self.username,
            "grant_id": self.grant_id,
            "subject": self.texts.subject,
            "delivery_id": self.delivery_id,
            "operator_id": self.operator_id,
        }

    def paths(self) -> Iterator[tuple[str, str]]:
        """The path of every page, below /console, and with the texts in it. Fails for a part that is not known here."""
        parts = {name: quote(value, safe="") for name, value in self.named.items()}
        for route in PAGES:
            method, _, path = route.partition(" ")
            if method == "GET" and not path.endswith(NO_PAGE):
                yield path, PATH + path.format_map(parts)
        yield "/clients of an API", f"{PATH}/clients?api_id={parts['api_id']}"
        yield "/clients/find", f"{PATH}/clients/find?client_id={parts['client_id']}"
        for name in ("client_id", "api_id", "subject"):
            yield f"/grants?{name}", f"{PATH}/grants?{name}={parts[name]}"
        yield "/webhooks of the client app", f"{PATH}/webhooks?client_id={parts['client_id']}"
        yield "/audit of the record", f"{PATH}/audit?subject={quote(self.texts.record, safe='')}"

    async def write(self, texts: Texts) -> None:
        """Replace the texts in the database itself, as a version with laxer rules may have stored them."""
        mongo, store = self.system.deps.store.mongo, self.system.deps.store
        client = self.party.client.model_copy(
            update={
                "client_id": texts.client_id,
                "name": texts.client_name,
                "description": texts.description,
                "redirect_uris": (texts.redirect_uri,),
                "meta_data": {texts.key: texts.value},
            }
        )
        await self._replace("clients", self.client_id or self.party.id, texts.client_id, store.clients._encode(client))
        api = self.party.api.model_copy(update={"name": texts.api_name, "definition": self._definition(texts)})
        await mongo["apis"].update_one({"_id": api.api_id}, {"$set": store.apis._encode(api)})
        (right,) = self.policy.access_rights.values()
        url = right.allowed_urls[0].model_copy(update={"url": texts.allowed_url})
        policy = self.policy.model_copy(
            update={
                "name": texts.policy_name,
                "tags": (texts.tag,),
                "meta_data": {texts.key: texts.value},
                "access_rights": {right.api_id: right.model_copy(update={"allowed_urls": (url,)})},
            }
        )
        await mongo["policies"].update_one({"_id": policy.policy_id}, {"$set": store.policies._encode(policy)})
        await mongo["operators"].update_one({"_id": self.operator_id}, {"$set": {"name": texts.operator}})
        await self._replace(
            "resource_owners",
            self.username,
            texts.username,
            {"meta_data": json.dumps({texts.key: texts.value}).encode()},
        )
        of_client = {"client_id": texts.client_id}
        await mongo["grants"].update_one({"_id": self.grant_id}, {"$set": {**of_client, "subject": texts.subject}})
        attempts = {"attempts.0.error": texts.error, "attempts.0.response": texts.response}
        await mongo["deliveries"].update_one({"_id": self.delivery_id}, {"$set": {**of_client, **attempts}})
        change = {
            "subject": texts.record,
            "reason": texts.reason,
            "actor.name": texts.operator,
            "actor.address": texts.reason,
            "changed": [texts.key],
        }
        await mongo["audit_log"].update_one({"_id": self.change_id}, {"$set": change})
        await mongo["events"].update_many({"grant_id": self.grant_id}, {"$set": {"reason": texts.reason}})
        self.texts, self.client_id, self.username = texts, texts.client_id, texts.username

    def _definition(self, texts: Texts) -> Any:
        definition = json.loads(self.party.api.definition.get_secret_value())
        definition["info"]["title"] = definition["x-tyk-api-gateway"]["info"]["name"] = texts.api_name
        definition["info"]["description"] = definition["x-strange"] = texts.description
        api = read_oas(definition, api_id=self.party.api.api_id, now=self.party.api.created_at)
        return api.definition

    async def _replace(self, collection: str, before: str, after: str, changes: Mapping[str, Any]) -> None:
        """The record, under another id."""
        records = self.system.deps.store.mongo[collection]
        found = await records.find_one({"_id": before})
        assert found is not None, before
        await records.delete_one({"_id": before})
        await records.bulk_write([ReplaceOne({"_id": after}, {**found, **changes, "_id": after}, upsert=True)])

    async def shapes(self) -> Mapping[str, Sequence[Any]]:
        """The elements of every page."""
        return {path: shape((await self.browser.get(full)).text) for path, full in self.paths()}

    async def settled(self) -> Mapping[str, Sequence[Any]]:
        """The same, once it no longer changes: usage and events are counted in the background."""
        before: Mapping[str, Sequence[Any]] = {}
        for _ in range(5):
            if (found := await self.shapes()) == before:
                break
            before = found
        return found

    async def typed(self, text: str) -> Mapping[str, Sequence[Any]]:
        """The elements of every form that comes back with what was typed and the reason why it was refused."""
        api, found = f"{PATH}/apis/{self.party.api.api_id}", {}
        forms = {
            f"{PATH}/apis/import": {"text": f"{{{text}"},
            f"{api}/clients": {
                **dict.fromkeys(("client_name", "description", "client_id", "redirect_uris", "scope"), text),
                "meta_data": f"{{{text}",
            },
            f"{PATH}/policies": {**dict.fromkeys(("name", "id", "tags"), text), "access_rights": f"{{{text}"},
            f"{PATH}/users": {"username": "somebody", "policy_ids": text, "password": "short"},
            f"{PATH}/operators": {"name": text},
            f"{PATH}/grants": {"token": text},
        }
        for path, fields in forms.items():
            await self.browser.get(f"{PATH}/operators/new")
            seen = await self.browser.post(path, fields)
            assert seen.status in {400, 404}, (path, seen.plain)
            found[path] = shape(seen.text)
        return found


def shape(text: str) -> Sequence[tuple[str, tuple[str, ...]]]:
    """Each element of the page as a browser reads it, with the names of its attributes. Fails for a link that leads out
    of the console, and for a comment.
    """
    return [(node.name, tuple(sorted(_safe(node)))) for node in _elements(JustHTML(text, sanitize=False).root)]


def _elements(node: Any) -> Iterator[Any]:
    for child in node.children or ():
        assert child.name != "#comment", child
        if not child.name.startswith(("#", "!")):
            yield child
            yield from _elements(child)


def _safe(node: Any) -> Mapping[str, str | None]:
    attributes: Mapping[str, str | None] = node.attrs or {}
    for name in {"href", "src", "action", "formaction"} & set(attributes):
        assert re.match(r"/console(?:[/?]|$)|#", attributes[name] or ""), (node.name, attributes)
    return attributes


@asynccontextmanager
async def _exhibit(mongodb_url: str) -> AsyncIterator[Exhibit]:
    async with open_system(mongodb_url, delivering=True) as system, console_of(system.call) as consoles:
        deps, now = system.deps, system.clock()
        party = await system.party(document(), description="plain", redirect_uris=("plain",), meta_data={"a": "b"})
        api_id = party.api.api_id
        right = {"api_id": api_id, "allowed_urls": [{"url": "plain", "methods": ["GET"]}]}
        policy = await make_policy(deps, api_id, name="plain", tags=("plain",), meta_data={"a": "b"})
        policy = Policy.model_validate({**policy.model_dump(), "access_rights": {api_id: right}})
        user = await system.user(meta_data={"a": "b"})
        await make_operator(deps, Permission.READ)
        operator = await deps.store.mongo["operators"].find_one({"permissions": ["read"]})
        assert operator is not None
        (grant,) = seed.grant_documents(party.client, 1, now, subject="plain")
        await seed.insert(deps.store, "grants", [grant])
        await seed.insert(deps.store, "events", seed.event_documents([grant]))
        attempts = (Attempt(at=now, latency_ms=7, status=500, error="plain", response="plain"),)
        delivery = stored(
            party.api, now, attempts=attempts, attempt_count=1, state=DeliveryState.EXHAUSTED, next_attempt_at=None
        )
        await deps.store.deliveries.add(delivery)
        await settle(deps)
        (change,) = seed.trail_documents(1, now, "client.updated", "plain", "somebody")
        await seed.insert(deps.store, "audit_log", [change])
        async with consoles.browser() as browser:
            assert (await browser.sign_in(await make_operator(deps, Permission.ADMIN))).status == 200
            await settle(deps)
            yield Exhibit(
                *(system, browser, party, policy, operator["_id"], user.username),
                *(grant["_id"], delivery.delivery_id, change["_id"]),
            )


class Plain:
    """The elements of every page with plain text. Not a dataclass: Hypothesis would print all of them."""

    def __init__(
        self, exhibit: Exhibit, pages: Mapping[str, Sequence[Any]], forms: Mapping[str, Sequence[Any]]
    ) -> None:
        self.exhibit, self.pages, self.forms = exhibit, pages, forms


@pytest.fixture(name="plain", scope="module")
async def _plain(mongodb_url: str) -> AsyncIterator[Plain]:
    async with _exhibit(mongodb_url) as exhibit:
        await exhibit.write(Texts())
        yield Plain(exhibit, await exhibit.settled(), await exhibit.typed("plain"))


# Without shrinking: an example takes a second, and the failure names the pages.
@settings(
    max_examples=20,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts=st.builds(Texts, **_FIELDS))
async def test_text_in_any_field_brings_no_element_and_no_attribute_to_any_page(plain: Plain, texts: Texts) -> None:
    """Whatever others write, each page has the elements and attributes that it has with plain text, and its links stay
    in the console.
    """
    await plain.exhibit.write(texts)
    pages = await plain.exhibit.shapes()
    if pages != plain.pages:
        pages = await plain.exhibit.settled()
    assert [path for path, found in pages.items() if found != plain.pages[path]] == []
    forms = await plain.exhibit.typed(texts.typed)
    assert [path for path, found in forms.items() if found != plain.forms[path]] == []


async def test_every_page_is_valid_html_and_shows_the_records(plain: Plain) -> None:
    """Without a parse error, such as elements that are nested wrongly; and the texts of the records are there, so that
    the tests of this file look at the pages that matter.
    """
    exhibit, wanted = plain.exhibit, Texts(**{name: f"{name}-x" for name in Texts.__dataclass_fields__})
    await exhibit.write(wanted)
    seen = {path: await exhibit.browser.get(full) for path, full in exhibit.paths()}
    assert {path: page.status for path, page in seen.items() if page.status != 200} == {}
    wrong = {path: JustHTML(page.text, sanitize=False, collect_errors=True).errors for path, page in seen.items()}
    assert {path: errors for path, errors in wrong.items() if errors} == {}
    everything = " ".join(page.plain + page.text for page in seen.values())
    shown = set(Texts.__dataclass_fields__) - {"typed"}
    assert [name for name in sorted(shown) if f"{name}-x" not in everything] == []


async def test_a_command_to_copy_is_one_command_whatever_is_in_it(plain: Plain) -> None:
    """Client id and redirect URI, which somebody else may have chosen, are arguments of curl in a shell, and nothing
    that runs.
    """
    client_id, uri = "it's $(touch a) `touch b`; touch c", "https://app.example/'$(touch d);\"touch e"
    party, browser = plain.exhibit.party, plain.exhibit.browser
    api_id = party.api.api_id
    deps, now = plain.exhibit.system.deps, party.client.created_at
    kept = client_secrets.protect(deps.keys, client_id, "the-secret-of-this-client", now, retrievable=True)
    client = party.client.model_copy(update={"client_id": client_id, "redirect_uris": (uri,), "secrets": (kept,)})
    await deps.store.clients.register(client, deps.event_context("tests"))
    seen = await browser.get(f"{PATH}/apis/{api_id}/clients/{quote(client_id, safe='')}")
    secret = await browser.post(f"{PATH}/apis/{api_id}/clients/{quote(client_id, safe='')}/secret")
    assert (seen.status, secret.status) == (200, 200)
    commands = [html.unescape(text) for text in re.findall(r"<pre[^>]*>(curl .*?)</pre>", secret.text, re.DOTALL)]
    assert len(commands) == 3
    for command in commands:
        script = f"curl() {{ printf '%s\\0' \"$@\"; }}; PATH=/nowhere; {command}"
        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False, timeout=20)
        arguments = done.stdout.split("\0")
        assert done.stderr == ""
        assert any(argument.startswith(f"{client_id}:") for argument in arguments), arguments
    assert f"redirect_uri={uri}" in " ".join(commands).replace("'\"'\"'", "'")


@pytest.mark.parametrize(
    "name", ["api_id", "client_id", "subject", "state", "action", "operator", "from", "to", "after"]
)
async def test_text_in_the_url_of_a_list_is_text(plain: Plain, name: str) -> None:
    """Filters and cursors that nobody would have typed come back in their fields and in the reason for a refusal."""
    marked = quote("""\"><x-brought y-brought=1>' z-brought=2 </textarea><x-brought>""")
    query = f"?{name}={marked}&span={marked}&service={marked}&types={marked}"
    for path in [path for path in plain.pages if re.fullmatch(r"/[a-z]*", path)]:
        seen = await plain.exhibit.browser.get(f"{PATH}{path}{query}")
        assert seen.status in {200, 400, 404}, (path, seen.status)
        assert "brought" not in repr(shape(seen.text)), path


def test_the_tests_of_this_file_would_notice_markup() -> None:
    """The comparison sees an element, an attribute, a comment and a link that were brought."""
    assert shape("<p>a</p>") != shape("<p>a<b>c</b></p>")
    assert shape("<p title='a'>") != shape("<p title='a' onclick='b'>")
    for text in ("<p><!-- a --></p>", "<a href='javascript:alert(1)'>a</a>", "<form action='//evil.example'></form>"):
        with pytest.raises(AssertionError):
            shape(text)
