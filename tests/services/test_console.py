"""The console over the real services: sessions, forms, errors, and every page with text that others wrote."""

import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from yarl import URL

from contracts.operations import ANY_METHOD, Service
from contracts.operators import Permission
from libs.oauth.token_formats import public_token_id
from services.console.app import PAGES
from services.console.service_calls import ServiceCalls
from services.console.session_cookies import COOKIE, PATH
from services.console.visits import SELF
from services.operation_catalog import operations_by
from tests.builders import api_document, make_operator, make_policy, settle, unique
from tests.services.console_browser import Browser, Consoles, console_of, page_paths
from tests.services.system import Clock, System


@pytest.fixture(name="consoles", scope="module")
async def _consoles(system: System) -> AsyncIterator[Consoles]:
    async with console_of(system.call) as consoles:
        yield consoles


@pytest.fixture
async def browser(consoles: Consoles) -> AsyncIterator[Browser]:
    """A browser that is not signed in."""
    async with consoles.browser() as browser:
        yield browser


@pytest.fixture
async def admin(consoles: Consoles, system: System) -> AsyncIterator[Browser]:
    """A browser with a session of an operator with every permission."""
    async with consoles.browser() as browser:
        seen = await browser.sign_in(await make_operator(system.deps, Permission.ADMIN))
        assert seen.status == 200, seen.text
        yield browser


def cookie_of(browser: Browser) -> str:
    """The session cookie that the browser has."""
    (cookie,) = [each for each in browser.http.cookie_jar if each.key == COOKIE]
    return cookie.value


# Sessions


async def test_without_a_session_every_page_and_action_leads_to_the_sign_in_form(browser: Browser) -> None:
    """No page and no action of the table runs without a session; a page is returned to after the sign-in."""
    for route in PAGES:
        method, _, path = route.partition(" ")
        target = f"{PATH}{re.sub(r'{[^}]+}', 'x', path)}"
        async with browser.http.request(method, f"{browser.base}{target}", allow_redirects=False) as response:
            assert response.status == 303, route
            assert response.headers["Location"].startswith("/console/sign-in"), route
            assert response.headers["Cache-Control"] == "no-store"


async def test_the_sign_in_leads_to_the_page_that_was_wanted(browser: Browser, system: System) -> None:
    """With a key the session begins, in an HttpOnly, SameSite=Strict cookie of the console's path only."""
    key = await make_operator(system.deps, Permission.READ)
    form = await browser.get("/console/audit?action=client.*")
    assert form.url.path == "/console/sign-in"
    async with browser.http.post(
        f"{browser.base}/console/sign-in",
        data={"csrf": form.csrf, "key": key, "next": "/console/audit?action=client.*"},
        allow_redirects=False,
    ) as response:
        assert (response.status, response.headers["Location"]) == (303, "/console/audit?action=client.*")
        (cookie,) = [each for each in response.headers.getall("Set-Cookie") if each.startswith(f"{COOKIE}=")]
    assert {"HttpOnly", "Path=/console", "SameSite=Strict"} <= {part.strip() for part in cookie.split(";")}
    assert key not in cookie
    assert (await browser.get("/console/audit")).status == 200


async def test_a_wrong_key_begins_no_session_and_is_slowed_down_by_the_services(browser: Browser) -> None:
    """The form comes back with the reason; the services' own 429 is passed on with Retry-After."""
    seen = await browser.sign_in("tw_ok_wrong")
    assert seen.status == 401
    assert "No operator has this key" in seen.plain
    assert not [cookie for cookie in browser.http.cookie_jar if cookie.key == COOKIE]
    assert (await browser.sign_in("a key\nwith a line break")).status == 401
    assert (await browser.sign_in("\N{LATIN SMALL LETTER E WITH ACUTE}" * 20)).status == 401


async def test_a_session_ends_when_idle_and_after_its_lifetime(system: System) -> None:
    """Requests keep it alive for `session_idle` seconds each, at most until `session_lifetime` seconds have passed."""
    clock, key = Clock(), await make_operator(system.deps, Permission.READ)
    async with console_of(system.call, clock, session_idle=600, session_lifetime=1500) as consoles:
        async with consoles.browser() as browser:
            await browser.sign_in(key)
            for _ in range(2):
                clock.advance(590)
                assert (await browser.get("/console/audit", follow=False)).status == 200
            clock.advance(590)  # 1770 s since the sign-in
            assert (await browser.get("/console/audit", follow=False)).status == 303
        async with consoles.browser() as browser:
            await browser.sign_in(key)
            clock.advance(601)
            assert (await browser.get("/console/audit", follow=False)).status == 303


async def test_a_session_begins_anew_with_every_sign_in_and_cannot_be_set_from_outside(
    browser: Browser, system: System
) -> None:
    """The cookie that a browser has before is never the one it has afterwards (session fixation), nor is it trusted."""
    key = await make_operator(system.deps, Permission.READ)
    browser.http.cookie_jar.update_cookies({COOKIE: "1.chosen-by-somebody-else"}, URL(f"{browser.base}/console/"))
    assert (await browser.get("/console/", follow=False)).status == 303
    await browser.sign_in(key)
    first = cookie_of(browser)
    assert first != "1.chosen-by-somebody-else"
    await browser.get("/console/")
    await browser.post("/console/sign-out")
    await browser.sign_in(key)
    assert cookie_of(browser) != first


async def test_after_signing_out_a_copy_of_the_cookie_is_of_no_use(admin: Browser, consoles: Consoles) -> None:
    """The cookie is deleted, and what it contained opens no session any more."""
    copy = cookie_of(admin)
    await admin.get("/console/")
    seen = await admin.post("/console/sign-out")
    assert "You are signed out" in seen.plain
    async with consoles.browser() as thief:
        thief.http.cookie_jar.update_cookies({COOKIE: copy})
        assert (await thief.get("/console/", follow=False)).status == 303


async def test_a_deleted_or_changed_operator_is_signed_out_or_loses_the_actions_at_once(
    admin: Browser, consoles: Consoles
) -> None:
    """The services decide at every request: a session is worth what its key is worth now."""
    await admin.get("/console/operators/new")
    made = await admin.post("/console/operators", {"name": "Ada", "permissions": "write"})
    assert made.status == 200
    key = re.search(r"tw_ok_[A-Za-z0-9_-]+", made.text)
    assert key is not None
    async with consoles.browser() as other:
        assert (await other.sign_in(key[0])).status == 403  # without `read` the console shows nothing
        listed = await admin.get("/console/operators")
        found = re.search(r'/console/operators/([0-9a-f]+)">Ada<', listed.text)
        assert found is not None
        place = f"/console/operators/{found[1]}"
        await admin.get(place)
        await admin.post(place, {"name": "Ada", "permissions": "read"})
        assert (await other.sign_in(key[0])).status == 200
        assert "Import an API" not in (await other.get("/console/apis")).text
        refused = await other.get("/console/apis/import")
        assert (refused.status, "lacks the permission write" in refused.plain) == (403, True)
        await admin.get(f"{place}/delete")
        await admin.post(f"{place}/delete")
        assert (await other.get("/console/apis", follow=False)).status == 303


# Forms


@pytest.mark.parametrize("csrf", ["", "wrong"])
async def test_a_form_without_the_token_of_the_session_changes_nothing(
    admin: Browser, system: System, csrf: str
) -> None:
    """403, and the client app is still there."""
    party = await system.party()
    place = f"/console/apis/{party.api.api_id}/clients/{party.id}"
    assert (await admin.post(f"{place}/delete", csrf=csrf)).status == 403
    assert (await admin.get(place)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
async def test_a_form_of_another_origin_is_refused(admin: Browser, system: System, headers: dict[str, str]) -> None:
    """Even with a valid token: a browser that says so is believed."""
    party = await system.party()
    place = f"/console/apis/{party.api.api_id}/clients/{party.id}"
    await admin.get(f"{place}/delete")
    assert (await admin.post(f"{place}/delete", headers=headers)).status == 403
    assert (await admin.get(place)).status == 200
    async with admin.http.get(f"{admin.base}/console/sign-in") as response:
        assert response.status == 200


async def test_pages_are_neither_kept_nor_framed_and_run_no_inline_script(admin: Browser) -> None:
    """Every page has the strict policy; nothing in it is inline."""
    for path in ("/console/", "/console/apis", "/console/apis/import", "/console/nothing", "/console/operators/new"):
        seen = await admin.get(path)
        policy = seen.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert seen.headers["Cache-Control"] == "no-store"
        assert seen.headers["X-Frame-Options"] == "DENY"
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", seen.text), path


async def test_the_stylesheet_is_kept_by_browsers_and_changes_its_url_with_its_content(browser: Browser) -> None:
    """Static files need no session; an outdated URL is served, but not kept."""
    page = await browser.get("/console/sign-in")
    found = re.search(r"/console/static/[0-9a-f]+/console\.css", page.text)
    assert found is not None
    assert "immutable" in (await browser.get(found[0])).headers["Cache-Control"]
    old = re.sub(r"static/[0-9a-f]+", "static/0", found[0])
    assert (await browser.get(old)).headers["Cache-Control"] == "no-store"
    assert (await browser.get("/console/static/0/..%2fapp.py")).status == 404


# The work itself


async def test_a_client_app_is_registered_shown_edited_and_ended(admin: Browser, system: System) -> None:
    """What curl can do: register, see the secret once, get a token with it, edit, rotate, revoke, delete."""
    api = (await system.party()).api
    apis = f"/console/apis/{api.api_id}"
    await admin.get(f"{apis}/clients/new")
    made = await admin.post(
        f"{apis}/clients",
        {
            "client_name": "Shop",
            "description": "The shop",
            "kind": "confidential",
            "redirect_uris": "https://shop.example/cb",
        },
    )
    assert made.status == 200, made.plain
    assert "The client app was registered" in made.plain
    found = re.search(r"-u &#39;([A-Za-z0-9._~-]+):([^&]+)&#39;", made.text)
    assert found is not None, made.text
    client_id, secret = found[1], found[2]
    place = f"{apis}/clients/{client_id}"
    issued = await system.call(
        "POST",
        f"{api.listen_path}oauth/token",
        data={"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret},
    )
    assert issued.status == 200, issued.body
    shown = await admin.get(place)
    assert secret not in shown.text
    assert secret in (await admin.post(f"{place}/secret")).text
    await admin.get(f"{place}/edit")
    edited = await admin.post(f"{place}/edit", {"client_name": "Shop 2", "meta_data": '{"tier": "gold"}'})
    assert "The client app was changed" in edited.plain
    assert "gold" in edited.plain
    wrong = await admin.post(f"{place}/edit", {"client_name": "Shop 2", "meta_data": "{tier"})
    assert (wrong.status, "Metadata: not JSON" in wrong.plain) == (400, True)
    await admin.get(f"{place}/rotate")
    rotated = await admin.post(f"{place}/rotate", {"overlap": "0"})
    assert "The secret was rotated" in rotated.plain
    assert secret not in rotated.text
    await admin.get(f"{place}/revoke")
    revoked = await admin.post(f"{place}/revoke")
    assert "All tokens of this client app were revoked" in revoked.plain
    verified = await system.verify(f"{api.listen_path}x", Authorization=f"Bearer {issued.body['access_token']}")
    assert verified.status == 403
    await admin.get(f"{place}/delete")
    assert "was deleted" in (await admin.post(f"{place}/delete")).plain
    assert (await admin.get(place)).status == 404


async def test_a_message_is_shown_once(admin: Browser, system: System) -> None:
    """The sentence about what was done is on the next page, and not on the one after it."""
    party = await system.party()
    place = f"/console/apis/{party.api.api_id}/clients/{party.id}"
    await admin.get(f"{place}/edit")
    assert "The client app was changed" in (await admin.post(f"{place}/edit", {"client_name": "A"})).plain
    assert "The client app was changed" not in (await admin.get(place)).plain


async def test_policies_users_and_apis_are_managed(admin: Browser, system: System) -> None:
    """Create, change and delete each; wrong input comes back with the services' own words, and what was typed."""
    api = (await system.party()).api
    await admin.get("/console/policies/new")
    policy_id = unique("policy")
    wrong = await admin.post(
        "/console/policies", {"id": policy_id, "name": "Gold", "access_rights": '{"no such api": {}}'}
    )
    assert (wrong.status, "no such api" in wrong.plain, 'value="Gold"' in wrong.text) == (400, True, True)
    rights = f'{{"{api.api_id}": {{}}}}'
    made = await admin.post(
        "/console/policies",
        {"id": policy_id, "name": "Gold", "active": "1", "access_rights": rights, "rate": "5", "per": "10"},
    )
    assert "The policy was created" in made.plain
    assert "5 calls in any 10 s" in made.plain
    await admin.get(f"/console/policies/{policy_id}/edit")
    changed = await admin.post(
        f"/console/policies/{policy_id}/edit", {"name": "Gold", "access_rights": rights, "rate": "7", "per": "10"}
    )
    assert "7 calls in any 10 s" in changed.plain
    assert "inactive" in changed.plain
    user = unique("user")
    await admin.get("/console/users/new")
    assert (await admin.post("/console/users", {"username": user, "password": "short"})).status == 400
    made = await admin.post("/console/users", {"username": user, "password": "correct horse", "policy_ids": policy_id})
    assert f"The user {user} was created" in made.plain
    assert "disabled" in (await admin.post(f"/console/users/{user}/edit", {"policy_ids": ""})).plain
    assert (
        "The password was changed"
        in (await admin.post(f"/console/users/{user}/password", {"password": "correct horse 2"})).plain
    )
    for place in (f"users/{user}", f"policies/{policy_id}", f"apis/{api.api_id}"):
        await admin.get(f"/console/{place}/delete")
        assert "was deleted" in (await admin.post(f"/console/{place}/delete")).plain
        assert (await admin.get(f"/console/{place}")).status == 404


async def test_a_policy_is_created_and_replaced_as_text(admin: Browser, system: System) -> None:
    """The whole document, beside the fields; what is refused comes back, and leaves the other form as it was."""
    api, policy_id = (await system.party()).api, unique("policy")
    document = {"id": policy_id, "name": "Text", "active": True, "rate": 5, "per": 10, "access_rights": {}}
    document["access_rights"] = {api.api_id: {"api_id": api.api_id}}
    await admin.get("/console/policies/new")
    made = await admin.post("/console/policies", {"text": json.dumps(document)})
    assert "5 calls in any 10 s" in made.plain
    place = f"/console/policies/{policy_id}/edit"
    assert "&#34;rate&#34;: 5" in (await admin.get(place)).text
    for text, said in (("[]", "a JSON object is expected"), ("{", "not JSON"), ('{"rate": "many"}', "rate")):
        refused = await admin.post(place, {"text": text})
        assert (refused.status, said in refused.plain, 'value="Text"' in refused.text) == (400, True, True), text
    refused = await admin.post(place, {"name": "Fields", "access_rights": "{"})
    assert (refused.status, "&#34;rate&#34;: 5" in refused.text) == (400, True)
    done = await admin.post(place, {"text": json.dumps(document | {"rate": 7, "tags": ["new"]})})
    assert ("7 calls in any 10 s" in done.plain, "new" in done.plain) == (True, True)


async def test_c2_the_page_of_an_api_shows_what_is_not_enforced_and_what_is_unused(
    admin: Browser, system: System
) -> None:
    """Also what was accepted at the import, which the definition itself lists; and that calls go nowhere."""
    made = api_document("orders-classic.json", use_mutual_tls_auth=True, proxy__target_url="tyk://other")
    made |= {"cache_options": {"enable_cache": True}}
    assert (await system.operator("POST", "/api/apis?accept_unsupported=true", json=made)).status == 200
    seen = await admin.get(f"/console/apis/{made['api_id']}")
    for said in ("use_mutual_tls_auth: client certificates", "not enforced", "enable_cache: ", "calls through the"):
        assert said in seen.plain, said


async def test_a_grant_is_found_by_its_token_followed_and_revoked(admin: Browser, system: System) -> None:
    """A pasted token leads to its grant and is in no URL; the timeline has every event; after the revocation, calls
    are refused.
    """
    party = await system.party()
    first = await party.tokens(subject="bob")
    second = await party.refreshed(first.refresh)
    await settle(system.deps)
    assert "No grant matches" not in (await admin.get(f"/console/grants?client_id={party.id}")).plain
    shown = await admin.post("/console/grants", {"token": second.access})
    assert shown.status == 200, shown.plain
    assert second.access not in str(shown.url)
    assert second.access not in shown.text
    assert "This is the grant of the access token that you pasted (generation 2). It works now." in shown.plain
    for event in ("code.issued", "token.new", "token.refresh"):
        assert event in shown.plain
    assert "It does not work any more" in (await admin.post("/console/grants", {"token": first.access})).plain
    place = shown.url.path
    await admin.get(f"{place}/revoke")
    revoked = await admin.post(f"{place}/revoke")
    assert "The grant was revoked" in revoked.plain
    assert (await party.verify(second.access)).status == 403
    assert (await admin.post("/console/grants", {"token": "nonsense"})).status == 400
    await party.tokens(subject="bob")
    await admin.get("/console/grants/users/bob/revoke")
    assert "All grants of bob were revoked" in (await admin.post("/console/grants/users/bob/revoke")).plain


async def test_an_access_token_is_revoked_after_a_question_and_leads_back(admin: Browser, system: System) -> None:
    """From the page of the client app or of the grant, to which the action returns; the grant goes on."""
    party = await system.party()
    place = f"/console/apis/{party.api.api_id}/clients/{party.id}"
    for back in ("client", "grant"):
        tokens = await party.tokens(subject="dora")
        grant = await system.grant_of(tokens.access)
        token = public_token_id(grant.grant_id, grant.generation)
        page = place if back == "client" else f"/console/grants/{grant.grant_id}"
        query = f"token={token}" + ("" if back == "client" else f"&amp;grant_id={grant.grant_id}")
        assert f'href="{place}/revoke-token?{query}"' in (await admin.get(page)).text
        asked = await admin.get(f"{place}/revoke-token?{query.replace('&amp;', '&')}")
        assert f"The access token {token} stops working at once" in asked.plain
        assert f'value="{token}"' in asked.text
        fields = {"token": token} | ({} if back == "client" else {"grant_id": grant.grant_id})
        done = await admin.post(f"{place}/revoke-token", fields)
        assert ("The token was revoked" in done.plain, done.url.path) == (True, page)
        assert (await party.verify(tokens.access)).status == 403
        assert (await party.refresh(tokens.refresh)).status == 200


async def test_client_apps_are_searched_by_what_is_known_of_them(admin: Browser, system: System) -> None:
    """Of all APIs or of one; the text stays in its field, and nothing found says so and leads to all."""
    word = unique("word")
    party = await system.party(meta_data={"team": word})
    other = await system.party(description=f"Uses {word}")
    found = await admin.get(f"/console/clients?q={word}")
    assert (party.id in found.plain, other.id in found.plain, f'value="{word}"' in found.text) == (True, True, True)
    found = await admin.get(f"/console/clients?api_id={party.api.api_id}&q={word}")
    assert (party.id in found.plain, other.id in found.plain) == (True, False)
    nothing = await admin.get(f"/console/clients?api_id={party.api.api_id}&q={unique('nothing')}")
    assert "No client app matches" in nothing.plain
    assert f'href="/console/clients?api_id={party.api.api_id}"' in nothing.text
    assert (await admin.get(f"/console/clients?q={'x' * 300}")).status == 400


async def test_a_time_without_a_zone_is_utc_and_a_wrong_filter_is_explained(admin: Browser, system: System) -> None:
    """As the browser's fields send it; what cannot be a filter comes back beside the form, not as a page of its own."""
    policy = await make_policy(system.deps)
    now = system.clock()
    at, later = ((now + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M") for minutes in (-60, 60))
    query = f"subject={policy.policy_id}&from={at}&to={later}"
    await settle(system.deps)
    seen = await admin.get(f"/console/audit?{query}")
    assert "policy.created" in seen.plain
    assert f'name="from" type="datetime-local" value="{at}"' in seen.text
    assert "No change matches" in (await admin.get(f"/console/audit?subject={policy.policy_id}&from={later}")).plain
    for path in ("/console/audit?from=yesterday", "/console/audit?action=x"):
        wrong = await admin.get(path)
        assert (wrong.status, 'role="alert"' in wrong.text, "<form" in wrong.text) == (400, True, True), path


async def test_events_of_before_are_listed_below_those_that_come(admin: Browser, system: System) -> None:
    """Without scripts, by type and API; a wrong filter comes back beside the form."""
    party = await system.party()
    grant = await system.grant_of((await party.tokens()).access)
    await settle(system.deps)
    seen = await admin.get(f"/console/events?api_id={party.api.api_id}&types=token.*")
    assert ("token.new" in seen.plain, "code.issued" in seen.plain) == (True, False)
    assert f'href="/console/grants/{grant.grant_id}"' in seen.text
    wrong = await admin.get("/console/events?types=nonsense")
    assert (wrong.status, 'role="alert"' in wrong.text) == (400, True)


async def test_an_error_page_leads_back_to_the_list(admin: Browser) -> None:
    """What is not there was probably reached by an old link: its list is one click away."""
    seen = await admin.get("/console/policies/nowhere")
    assert (seen.status, 'href="/console/policies">To the policies' in seen.text) == (404, True)
    seen = await admin.get("/console/nowhere")
    assert (seen.status, "primary" in seen.text) == (404, False)


async def test_changes_lead_to_their_records(admin: Browser, system: System) -> None:
    """In the audit log and on the overview."""
    policy = await make_policy(system.deps)
    await settle(system.deps)
    listed = await admin.get(f"/console/audit?subject={policy.policy_id}")
    assert f'href="/console/policies/{policy.policy_id}"' in listed.text
    changes = (await admin.get("/console/")).text.partition("Last changes")[2]
    assert re.search(r'<a href="/console/(apis|policies|users|operators)/', changes)


async def test_forms_of_a_record_with_a_strange_id_lead_to_it(admin: Browser, system: System) -> None:
    """The addresses of forms and of `Cancel` have the id as the page's own address does, percent-encoded."""
    api = (await system.party()).api
    strange = f"{unique('a')}?b#c%d"
    await admin.get(f"/console/apis/{api.api_id}/clients/new")
    await admin.post(f"/console/apis/{api.api_id}/clients", {"client_id": strange})
    place = f"/console/apis/{api.api_id}/clients/{quote(strange, safe='')}"
    form = await admin.get(f"{place}/edit")
    assert f'action="{place}/edit"' in form.text
    assert f'<a class="button" href="{place}">Cancel</a>' in form.text
    assert f'action="{place}/delete"' in (await admin.get(f"{place}/delete")).text


async def test_the_page_of_a_user_signs_out_everywhere(admin: Browser, system: System) -> None:
    """One click from the record to the question, as from a grant."""
    user = await system.user()
    shown = await admin.get(f"/console/users/{user.username}")
    assert f'href="/console/grants/users/{user.username}/revoke"' in shown.text


async def test_the_reference_shows_every_operation_of_every_service(admin: Browser) -> None:
    """Each operation of the catalog is on the page of its service, with its path."""
    for service in Service:
        seen = await admin.get(f"/console/reference?service={service}")
        assert seen.status == 200
        for operation in operations_by(service):
            if operation.method != ANY_METHOD:
                assert f'id="{operation.name}"' in seen.text, operation.name


# Speed


async def test_no_page_needs_more_than_three_requests(
    admin: Browser, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Besides the one that asks whose key it is, for every page of the table."""
    party = await system.party()
    grant = await system.grant_of((await party.tokens(subject="carol")).access)
    policy, user = await make_policy(system.deps, party.api.api_id), await system.user()
    ids = {
        "api_id": party.api.api_id,
        "client_id": party.id,
        "grant_id": grant.grant_id,
        "subject": "carol",
        "policy_id": policy.policy_id,
        "username": user.username,
        "operator_id": "unknown",
        "delivery_id": "unknown",
    }
    asked: list[str] = []
    request = ServiceCalls.request

    def counted(calls: ServiceCalls, method: str, service: Service, path: str, *rest: Any, **options: Any) -> Any:
        if path.startswith("/api/"):  # not the checks of health
            asked.append(path)
        return request(calls, method, service, path, *rest, **options)

    monkeypatch.setattr(ServiceCalls, "request", counted)
    for path in page_paths(ids):
        asked.clear()
        await admin.get(f"{PATH}{path}")
        assert asked.count(SELF) == 1, path
        assert len(asked) - 1 <= 3, (path, asked)
