"""The console's pages of APIs over the real services: designing, reviewing, replacing, exporting, deleting."""

import html
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from contracts.operators import Permission
from libs.masking import MASK
from services.console.definition_fields import values_of
from services.console.definition_secrets import shown_text
from tests.builders import api_document, make_api, make_operator, unique
from tests.services.console_browser import Browser, Consoles, Seen, console_of
from tests.services.system import SCHEME, System, keyless
from tests.unit.tyk_definitions import changed

CLASSIC = "orders-classic.json"
TYK = "x-tyk-api-gateway"
UPSTREAM = f"{TYK}/upstream/url"
_DRAFT = re.compile(r'name="draft" value="([^"]+)"')
_TEXT = re.compile(r'<textarea id="f-text"[^>]*>\n(.*?)</textarea>', re.DOTALL)


@pytest.fixture(name="consoles", scope="module")
async def _consoles(system: System) -> AsyncIterator[Consoles]:
    async with console_of(system.call) as consoles:
        yield consoles


@pytest.fixture
async def admin(consoles: Consoles, system: System) -> AsyncIterator[Browser]:
    """A browser with a session of an operator with every permission."""
    async with consoles.browser() as browser:
        await browser.sign_in(await make_operator(system.deps, Permission.ADMIN))
        yield browser


@pytest.fixture
async def reader(consoles: Consoles, system: System) -> AsyncIterator[Browser]:
    """A browser with a session of an operator who may only read."""
    async with consoles.browser() as browser:
        await browser.sign_in(await make_operator(system.deps, Permission.READ))
        yield browser


def draft_in(seen: Seen) -> str:
    """The draft in the page's form."""
    found = _DRAFT.search(seen.text)
    assert found is not None, seen.plain
    return html.unescape(found[1])


def text_in(seen: Seen) -> str:
    """The definition's text in the designer."""
    found = _TEXT.search(seen.text)
    assert found is not None, seen.plain
    return html.unescape(found[1])


def form_of(seen: Seen, **changes: str) -> dict[str, str]:
    """The designer's form as it was shown, with changes."""
    text = text_in(seen)
    values = {name: value for name, value in values_of(json.loads(text)).items() if value}
    return {"draft": draft_in(seen), "form": "1", "text": text, "action": "review", **values, **changes}


async def stored(system: System, api_id: str) -> dict[str, Any]:
    """The definition as it is stored, with its secrets."""
    response = await system.operator("GET", f"/api/apis/{api_id}")
    assert response.status == 200, response.body
    document: dict[str, Any] = response.body
    return document


@pytest.mark.parametrize("form", ["oas", "classic"])
async def test_an_api_is_designed_from_nothing_and_issues_tokens(admin: Browser, system: System, form: str) -> None:
    """Form, review, save; then its page, and a token of a client app of it."""
    path = f"/{unique('at')}/"
    seen = await admin.get(f"/console/apis/new?format={form}")
    filled = form_of(
        seen,
        name="Things",
        listen_path=path,
        upstream_url="https://upstream.example.test/",
        grants="client_credentials",
        access_token_lifetime="600",
        scopes="read",
    )
    review = await admin.post("/console/apis/new", filled)
    assert review.status == 200, review.plain
    assert "Create the API Things?" in review.plain
    assert "access 10 min" in review.plain
    saved = await admin.post("/console/apis/new/save", {"draft": draft_in(review)})
    assert "The API was created" in saved.plain, saved.plain
    api_id = saved.url.path.rpartition("/")[2]
    api = await system.deps.store.apis.get(api_id)
    assert api is not None
    assert (api.format, api.listen_path) == (form, path)
    party = await system.client_of(api)
    issued = await party.token({"grant_type": "client_credentials", **party.named})
    assert (issued.status, issued.body.get("expires_in")) == (200, 600), issued.body


@pytest.mark.parametrize("name", ["orders-oas.json", CLASSIC])
async def test_a_change_in_the_form_is_reviewed_and_replaces_only_its_part(
    admin: Browser, system: System, name: str
) -> None:
    """The review says in plain words what clients notice, and shows the lines; the rest of the definition stays."""
    api = await make_api(system.deps, api_document(name))
    before = await stored(system, api.api_id)
    place = f"/console/apis/{api.api_id}"
    seen = await admin.get(f"{place}/design")
    review = await admin.post(f"{place}/design", form_of(seen, grants="client_credentials", pkce_required="1"))
    assert review.status == 200, review.plain
    assert "The grant type password is no longer offered" in review.plain
    assert "PKCE" in review.plain
    assert "pkceRequired" in review.plain
    assert await stored(system, api.api_id) == before
    done = await admin.post(f"{place}/replace", {"draft": draft_in(review)})
    assert "The definition was replaced" in done.plain, done.plain
    after = await stored(system, api.api_id)
    expected = values_of(before) | {"grants": "client_credentials", "pkce_required": "1"}
    assert values_of(after) == expected
    own = "tokenwire" if name == CLASSIC else "x-tokenwire"
    changed_parts = {own, "oauth_meta", "components"}
    assert {key: after[key] for key in after if key not in changed_parts} == {
        key: before[key] for key in before if key not in changed_parts
    }


async def test_an_unchanged_form_replaces_nothing(admin: Browser, system: System) -> None:
    """The review says so, and offers no button."""
    api = await make_api(system.deps)
    place = f"/console/apis/{api.api_id}"
    review = await admin.post(f"{place}/design", form_of(await admin.get(f"{place}/design")))
    assert "It is the stored definition, unchanged" in review.plain
    assert "Replace the definition</button>" not in review.text


async def test_the_text_is_edited_and_the_form_follows(admin: Browser, system: System) -> None:
    """Updated, each has the changes of the other; what was typed into an unreadable text is still there."""
    api = await make_api(system.deps)
    place = f"/console/apis/{api.api_id}"
    seen = await admin.get(f"{place}/design")
    text = shown_text(changed(json.loads(text_in(seen)), f"{TYK}/info/name", "By text"))
    fields = form_of(seen, text=text, login_url="https://by-form.example/login", action="update")
    fields["name"] = "Orders"
    updated = await admin.post(f"{place}/design", fields)
    assert 'value="By text"' in updated.text
    assert "https://by-form.example/login" in text_in(updated)
    broken = await admin.post(f"{place}/design", form_of(updated) | {"text": '{"openapi": '})
    assert (broken.status, "not JSON" in broken.plain, '{"openapi": ' in text_in(broken)) == (400, True, True)


async def test_secrets_are_in_no_page_that_did_not_ask_for_them(admin: Browser, system: System) -> None:
    """Neither the API's page nor the designer, nor a review of a new secret; the page that shows them, on request."""
    api = await make_api(system.deps)
    place, new = f"/console/apis/{api.api_id}", "a-new-secret-of-some-length"
    for path in (place, f"{place}/design"):
        assert "s3cr3t" not in (await admin.get(path)).text
    review = await admin.post(f"{place}/design", form_of(await admin.get(f"{place}/design"), shared_secret=new))
    assert "The shared secret of webhooks changes" in review.plain
    assert f"{MASK} (changed)" in review.plain
    back = await admin.post(f"{place}/design", {"draft": draft_in(review), "action": "edit"})
    assert back.status == 200
    for seen in (review, back):
        assert new not in seen.text
        assert "s3cr3t" not in seen.text
    again = await admin.post(f"{place}/design", form_of(back))
    await admin.post(f"{place}/replace", {"draft": draft_in(again)})
    scheme = (await stored(system, api.api_id))[TYK]["server"]["authentication"]["securitySchemes"]["tykOAuth"]
    assert scheme["notifications"]["sharedSecret"] == new
    assert new in (await admin.post(f"{place}/webhook-secrets")).text


async def test_a_definition_that_somebody_else_changed_is_not_replaced(admin: Browser, system: System) -> None:
    """409 with a clear page, both if it changed before the review and if it changed after it; then it can be reviewed
    again against the new one.
    """
    api = await make_api(system.deps)
    place = f"/console/apis/{api.api_id}"
    seen = await admin.get(f"{place}/design")
    document = await stored(system, api.api_id)
    fields = form_of(seen, name="Mine")

    async def change(url: str) -> None:
        document.update(changed(document, UPSTREAM, url))
        assert (await system.operator("PUT", f"/api/apis/{api.api_id}", json=document)).status == 200

    await change("https://theirs.example/1")
    outdated = await admin.post(f"{place}/design", fields)
    assert (outdated.status, "changed by somebody else" in outdated.plain) == (409, True)
    assert "https://theirs.example/1" in outdated.plain
    await change("https://theirs.example/2")
    refused = await admin.post(f"{place}/replace", {"draft": draft_in(outdated)})
    assert (refused.status, "Nothing was replaced" in refused.plain) == (409, True)
    assert await stored(system, api.api_id) == document
    done = await admin.post(f"{place}/replace", {"draft": draft_in(refused)})
    assert "The definition was replaced" in done.plain
    assert (await stored(system, api.api_id))[TYK]["info"]["name"] == "Mine"


async def test_protections_that_are_not_enforced_must_be_accepted(admin: Browser, system: System) -> None:
    """The review names them; without the box nothing is replaced; afterwards the API's page names them."""
    api = await make_api(system.deps)
    place = f"/console/apis/{api.api_id}"
    seen = await admin.get(f"{place}/design")
    guarded = changed(
        json.loads(text_in(seen)), f"{TYK}/server/clientCertificates", {"enabled": True, "allowlist": ["a"]}
    )
    review = await admin.post(f"{place}/design", form_of(seen) | {"text": shown_text(guarded)})
    assert (review.status, "client certificates" in review.plain) == (200, True), review.plain
    before = await stored(system, api.api_id)
    refused = await admin.post(f"{place}/replace", {"draft": draft_in(review)})
    assert (refused.status, "Nothing was saved" in refused.plain) == (400, True), refused.plain
    assert await stored(system, api.api_id) == before
    accepted = await admin.post(f"{place}/replace", {"draft": draft_in(refused), "accept_unsupported": "1"})
    assert "The definition was replaced" in accepted.plain, accepted.plain
    assert "clientCertificates: client certificates" in accepted.plain


async def test_wrong_values_come_back_with_the_services_words_and_nothing_is_lost(
    admin: Browser, system: System
) -> None:
    """A listen path that is taken, a lifetime that is none, a draft of another session."""
    api, other = await make_api(system.deps), await make_api(system.deps)
    place = f"/console/apis/{api.api_id}"
    seen = await admin.get(f"{place}/design")
    taken = await admin.post(f"{place}/design", form_of(seen, listen_path=other.listen_path, name="Kept"))
    assert (taken.status, "is taken" in taken.plain, 'value="Kept"' in taken.text) == (409, True, True)
    wrong = await admin.post(f"{place}/design", form_of(seen, code_lifetime="soon", name="Kept"))
    assert (wrong.status, "codeLifetime" in wrong.plain, 'value="Kept"' in wrong.text) == (400, True, True)
    long = await admin.post(f"{place}/design", form_of(seen, code_lifetime="601"))
    assert (long.status, "codeLifetime" in long.plain) == (400, True)
    for draft in ("", "1.AAAA"):
        assert (await admin.post(f"{place}/design", form_of(seen) | {"draft": draft})).status == 400
        assert (await admin.post(f"{place}/replace", {"draft": draft})).status == 400


async def test_a_keyless_api_gets_oauth_in_the_form(admin: Browser, system: System) -> None:
    """With the box, it issues tokens; the review says so."""
    api = await make_api(system.deps, keyless())
    place = f"/console/apis/{api.api_id}"
    seen = await admin.get(f"{place}/design")
    review = await admin.post(f"{place}/design", form_of(seen, issues_tokens="1"))
    assert "The API issues tokens" in review.plain, review.plain
    assert "OAuth 2.0" in (await admin.post(f"{place}/replace", {"draft": draft_in(review)})).plain


@pytest.mark.parametrize("name", ["orders-oas.json", CLASSIC])
async def test_an_export_is_a_file_with_the_definition(
    admin: Browser, reader: Browser, system: System, name: str
) -> None:
    """An attachment that can be imported again; without `write`, with secrets masked."""
    api = await make_api(system.deps, api_document(name))
    place = f"/console/apis/{api.api_id}/export"
    seen = await admin.get(place)
    assert seen.headers["Content-Disposition"] == f'attachment; filename="{api.api_id}.json"'
    assert seen.headers["Cache-Control"] == "no-store"
    assert json.loads(seen.text) == await stored(system, api.api_id)
    masked = (await reader.get(place)).text
    assert "s3cr3t" not in masked
    assert MASK in masked
    assert (await admin.get("/console/apis/no-such-api/export")).status == 404


async def test_an_import_of_an_existing_id_offers_to_replace_it(admin: Browser, system: System) -> None:
    """With the difference before; also from a masked export, whose secrets are put back."""
    api = await make_api(system.deps)
    document = await stored(system, api.api_id)
    text = shown_text(changed(document, UPSTREAM, "https://new.example/"))
    await admin.get("/console/apis/import")
    checked = await admin.post("/console/apis/import", {"text": text})
    assert f"An API with the id {api.api_id} exists" in checked.plain, checked.plain
    assert "Import it</button>" not in checked.text
    review = await admin.post(f"/console/apis/{api.api_id}/design", {"text": text, "action": "review"})
    assert "Calls go to another upstream: https://new.example/" in review.plain, review.plain
    done = await admin.post(f"/console/apis/{api.api_id}/replace", {"draft": draft_in(review)})
    assert "The definition was replaced" in done.plain
    assert await stored(system, api.api_id) == changed(document, UPSTREAM, "https://new.example/")


async def test_the_deletion_says_how_much_it_ends(admin: Browser, system: System) -> None:
    """Numbers of client apps, and of live grants with their tokens; an ended grant does not count."""
    party = await system.party()
    await system.client_of(party.api)
    await party.tokens(subject="bob")
    revoked = await party.tokens(subject="carol")
    await party.revoke(revoked.refresh)
    seen = await admin.get(f"/console/apis/{party.api.api_id}/delete")
    assert "Deleted with it: 2 client apps." in seen.plain
    assert "Ended at once: 1 live grant, with 1 access token and 1 refresh token." in seen.plain
    assert "was deleted" in (await admin.post(f"/console/apis/{party.api.api_id}/delete")).plain


async def test_the_signing_secret_is_rotated_with_an_overlap(admin: Browser, system: System) -> None:
    """Asked before, shown once with the end of the overlap; the page of the secrets shows it on request."""
    document = api_document()
    imported = await system.operator("POST", "/api/apis", json=document)
    place = f"/console/apis/{imported.body['ID']}"
    await admin.get(place)
    first = re.search(r"whsec_[A-Za-z0-9+/=]+", html.unescape((await admin.post(f"{place}/webhook-secrets")).text))
    assert first is not None
    assert "two signatures" in (await admin.get(f"{place}/webhook-secrets/rotate")).plain
    wrong = await admin.post(f"{place}/webhook-secrets/rotate", {"overlap": "a day"})
    assert (wrong.status, "whole number of hours" in wrong.plain) == (400, True)
    rotated = await admin.post(f"{place}/webhook-secrets/rotate", {"overlap": "24"})
    assert "The signing secret was rotated" in rotated.plain
    assert "also has a signature with the secret before" in rotated.plain
    assert first[0] not in html.unescape(rotated.text)
    assert "whsec_" not in (await admin.get(place)).text


async def test_apis_are_searched_by_id_name_and_listen_path(admin: Browser, system: System) -> None:
    """The text is in the URL and in the field; what does not match is not listed."""
    word = unique("needle")
    one = await make_api(system.deps, api_document(**{f"{TYK}__info__name": f"The {word.upper()} API"}))
    other = await make_api(system.deps)
    found = await admin.get(f"/console/apis?q={word}")
    assert f"/console/apis/{one.api_id}" in found.text
    assert f"/console/apis/{other.api_id}" not in found.text
    assert f'value="{word}"' in found.text
    assert f"/console/apis/{other.api_id}" in (await admin.get(f"/console/apis?q={other.listen_path[1:-1]}")).text
    assert "No API matches" in (await admin.get(f"/console/apis?q={unique('nothing')}")).plain
    long = await admin.get(f"/console/apis?q={'x' * 300}")
    assert (long.status, "q:" in long.plain) == (400, True)


STRANGE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</textarea><script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "&lt;b&gt;",
]


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("name", ["orders-oas.json", CLASSIC])
async def test_strange_text_of_a_definition_is_text_on_every_page(
    admin: Browser, system: System, name: str, strange: str
) -> None:
    """In the name, in settings and in members that nobody reads: no page has it as markup, and the designer gives it
    back as it was.
    """
    path = "info__title" if name != CLASSIC else "slug"
    of_name = f"{TYK}__info__name" if name != CLASSIC else "name"
    api = await make_api(system.deps, api_document(name, **{of_name: strange, path: strange}))
    place = f"/console/apis/{api.api_id}"
    seen = await admin.get(f"{place}/design")
    assert json.loads(text_in(seen)) == json.loads(shown_text(await stored(system, api.api_id)))
    review = await admin.post(f"{place}/design", form_of(seen, login_url=f"https://l.example/{len(strange)}"))
    assert review.status == 200, review.plain
    pages = [seen, review, await admin.get(place), await admin.get("/console/apis"), await admin.get(f"{place}/delete")]
    for page in pages:
        assert strange in page.plain, page.url
        assert not re.search(r"<script>|<img src=x", page.text), page.url


async def test_an_operator_who_only_reads_sees_no_action_of_the_designer(reader: Browser, system: System) -> None:
    """No button that would be refused, and 403 where it is tried all the same."""
    api = await make_api(system.deps, api_document(**{f"{SCHEME}refreshToken": True}))
    place = f"/console/apis/{api.api_id}"
    seen = await reader.get(place)
    assert f"{place}/export" in seen.text
    for action in ("/design", "/delete", "/webhook-secrets"):
        assert f"{place}{action}" not in seen.text
    for path in ("/console/apis/new", f"{place}/design", f"{place}/webhook-secrets/rotate"):
        assert (await reader.get(path)).status == 403
    for path in (f"{place}/replace", f"{place}/design", f"{place}/webhook-secrets", "/console/apis/new/save"):
        await reader.get(place)
        assert (await reader.post(path)).status == 403


async def send_all_of(browser: Browser, path: str, fields: dict[str, str]) -> Seen:
    """Send a form as browsers send those with `enctype="multipart/form-data"`."""
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        form.add_field(name, value)
    assert browser.page is not None
    form.add_field("csrf", browser.page.csrf)
    async with browser.http.post(f"{browser.base}{path}", data=form) as response:
        browser.page = Seen(response.status, response.headers, await response.text(), response.url)
        return browser.page


def large(size: int) -> dict[str, Any]:
    """A definition of so many bytes, most of which are quotes and line ends when it is indented."""
    document = api_document()
    paths = {f"/{number}": {"get": {"operationId": f"o{number}", "responses": {}}} for number in range(size // 64)}
    document["paths"] = paths
    document["info"]["description"] = ""
    document["info"]["description"] = "x" * (size - len(json.dumps(document, separators=(",", ":"))))
    return document


large_bodies = pytest.mark.filterwarnings("ignore:Sending a large body")
"""Of the test's own client."""


@large_bodies
async def test_a_definition_of_nearly_a_mebibyte_is_imported_designed_and_replaced(
    admin: Browser, system: System
) -> None:
    """As large as the services take it: its form is larger, since it has the draft and the indented text."""
    document = large(2**20 - 4096)
    text = json.dumps(document, separators=(",", ":"))
    await admin.get("/console/apis/import")
    checked = await send_all_of(admin, "/console/apis/import", {"text": text})
    assert (checked.status, 'enctype="multipart/form-data" action="/console/apis"' in checked.text) == (200, True)
    saved = await send_all_of(admin, "/console/apis", {"text": text, "accept_unsupported": "1"})
    assert "The API was imported" in saved.plain, saved.plain[:500]
    place = saved.url.path
    shown = await admin.get(f"{place}/design")
    reviewed = await send_all_of(admin, f"{place}/design", form_of(shown, name="Large"))
    assert "Replace the definition" in reviewed.plain, reviewed.plain[:500]
    replaced = await send_all_of(admin, f"{place}/replace", {"draft": draft_in(reviewed)})
    assert "The definition was replaced" in replaced.plain, replaced.plain[:500]
    assert (await stored(system, place.rpartition("/")[2]))[TYK]["info"]["name"] == "Large"


@large_bodies
async def test_a_larger_definition_is_refused_in_the_form_that_has_it(admin: Browser) -> None:
    """The services' limit is said beside the text, which stays; nothing is lost."""
    text = json.dumps(large(2**20 + 4096), separators=(",", ":"))
    await admin.get("/console/apis/import")
    refused = await send_all_of(admin, "/console/apis", {"text": text})
    assert (refused.status, "over 1048576 bytes" in refused.plain) == (413, True), refused.plain[:500]
    assert text[:200] in html.unescape(refused.text)


@large_bodies
async def test_a_form_that_is_too_large_gets_a_page_that_says_so(admin: Browser) -> None:
    """With the limit and what to do instead, for definitions and for other forms; nothing is changed."""
    await admin.get("/console/apis/import")
    refused = await send_all_of(admin, "/console/apis/import", {"text": "x" * (9 * 2**20)})
    assert (refused.status, "larger than 8 MiB" in refused.plain) == (413, True), refused.plain
    assert "tokenwire apis import" in refused.plain
    await admin.get("/console/users/new")
    refused = await admin.post("/console/users", {"username": "x" * (3 * 2**20)})
    assert (refused.status, "larger than 2 MiB" in refused.plain) == (413, True), refused.plain
