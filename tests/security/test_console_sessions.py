"""Sessions of the console: cookies, where the sign-in leads, what browsers keep, the end when an operator changes."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from urllib.parse import quote, urljoin, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from yarl import URL

from contracts.operators import Permission
from services.console.app import PAGES
from services.console.session_cookies import COOKIE, FORM_COOKIE, PATH
from services.console.visits import next_path
from tests.builders import make_operator
from tests.services.console_browser import Browser, Consoles, console_of
from tests.services.system import System, open_system

OPERATORS = "/api/operators"


@pytest.fixture(name="system", scope="module")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    async with open_system(mongodb_url) as system:
        yield system


@pytest.fixture(name="consoles", scope="module")
async def _consoles(system: System) -> AsyncIterator[Consoles]:
    async with console_of(system.call) as consoles:
        yield consoles


@pytest.fixture
async def browser(consoles: Consoles) -> AsyncIterator[Browser]:
    """A browser that is not signed in."""
    async with consoles.browser() as browser:
        yield browser


# The cookie


async def _cookies(browser: Browser, method: str, path: str, **form: str) -> dict[str, set[str]]:
    """The attributes of each cookie that the response sets, by name."""
    async with browser.http.request(
        method, f"{browser.base}{path}", data=form or None, allow_redirects=False
    ) as response:
        lines = response.headers.getall("Set-Cookie", [])
    return {line.partition("=")[0]: {part.strip().lower() for part in line.split(";")[1:]} for line in lines}


@pytest.mark.parametrize(("public_url", "secure"), [("https://tokens.example", True), ("http://127.0.0.1:8080", False)])
async def test_no_script_no_other_site_and_no_other_path_gets_a_cookie(
    system: System, public_url: str, secure: bool
) -> None:
    """Every cookie is HttpOnly, SameSite=Strict, for /console of this host only, ends with the browser, and is Secure
    where the public URL has TLS; also where it is deleted.
    """
    key = await make_operator(system.deps, Permission.READ)
    async with console_of(system.call, public_url=public_url) as consoles, consoles.browser() as browser:
        form = await _cookies(browser, "GET", "/console/sign-in")
        # As a browser would over TLS, which this test does not have.
        kept = {cookie.key: cookie.value for cookie in browser.http.cookie_jar}
        browser.http.cookie_jar.clear()
        browser.http.cookie_jar.update_cookies(kept, URL(f"{browser.base}/console/"))
        begun = await _cookies(browser, "POST", "/console/sign-in", key=key, csrf=kept[FORM_COOKIE])
    assert (set(form), set(begun)) == ({FORM_COOKIE}, {COOKIE})
    expected = {"httponly", "samesite=strict", "path=/console"} | ({"secure"} if secure else set())
    assert [*form.values(), *begun.values()] == [expected, expected]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=';,"\\'), max_size=200))
@example("1.AAAA")
@example("1." + "A" * 5000)
async def test_a_cookie_that_the_console_did_not_write_is_no_session(consoles: Consoles, text: str) -> None:
    """Whatever it contains: the sign-in form, and no error."""
    async with consoles.browser() as browser:
        browser.http.cookie_jar.update_cookies({COOKIE: text}, URL(f"{browser.base}/console/"))
        assert (await browser.get("/console/apis", follow=False)).status == 303


async def test_a_changed_cookie_is_no_session(browser: Browser, system: System) -> None:
    """Each part of it is authenticated."""
    await browser.sign_in(await make_operator(system.deps, Permission.READ))
    (cookie,) = [each for each in browser.http.cookie_jar if each.key == COOKIE]
    for place in range(0, len(cookie.value), 7):
        letter = "A" if cookie.value[place] != "A" else "B"
        changed = f"{cookie.value[:place]}{letter}{cookie.value[place + 1 :]}"
        browser.http.cookie_jar.update_cookies({COOKIE: changed}, URL(f"{browser.base}/console/"))
        assert (await browser.get("/console/apis", follow=False)).status == 303, place


# Where the sign-in leads

OUTSIDE = (
    "https://evil.example/",
    "//evil.example/",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/console\\@evil.example",
    "/console//evil.example\\@x",
    "/console@evil.example",
    "/console.evil.example",
    "/consolex",
    "/console/../api/apis",
    "/console/..",
    "/console/x/../../my-api/",
    "/console/%2e%2e/my-api/",
    "/console/.%2E/my-api/",
    "/console/./../my-api/",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "/console/\r\nLocation: https://evil.example/",
    "/console/\tx",
    "/console?a#//evil.example",
    "/api/apis",
    "",
    " /console/",
    "/CONSOLE/",
    "/console/" + "a" * 3000,
)


def _reached(target: str) -> str:
    """Where a browser on the sign-in form goes: backslashes are slashes there, and dots are resolved."""
    base = "http://tokens.example/console/sign-in"
    decoded = re.sub(r"%2e", ".", target.replace("\\", "/"), flags=re.IGNORECASE)
    return urljoin(base, re.sub(r"[\t\r\n]", "", decoded).strip())


@pytest.mark.parametrize("target", OUTSIDE)
async def test_the_sign_in_never_leads_out_of_the_console(browser: Browser, system: System, target: str) -> None:
    """An address outside, in any spelling, is replaced by the overview, in the form and in the redirect after it."""
    key = await make_operator(system.deps, Permission.READ)
    form = await browser.get(f"/console/sign-in?next={quote(target)}")
    assert 'name="next" value="/console/"' in form.text
    async with browser.http.post(
        f"{browser.base}/console/sign-in", data={"csrf": form.csrf, "key": key, "next": target}, allow_redirects=False
    ) as response:
        assert (response.status, response.headers["Location"]) == (303, "/console/")
    # Signed in already, the form itself redirects.
    assert (await browser.get(f"/console/sign-in?next={quote(target)}", follow=False)).headers[
        "Location"
    ] == "/console/"


@settings(max_examples=200)
@given(
    st.text(st.sampled_from("/\\.%2eE:@?#cosl nt\t") | st.characters(codec="utf-8"), max_size=30).map(
        "/console".__add__
    )
)
def test_whatever_follows_the_console_s_path_stays_in_it(target: str) -> None:
    """A target that is accepted is, after everything that browsers do to an address, a page of the console."""
    reached = urlsplit(_reached(next_path(target)))
    assert (reached.scheme, reached.netloc) == ("http", "tokens.example")
    assert reached.path == PATH or reached.path.startswith(f"{PATH}/")


# What browsers keep


async def test_nothing_that_only_an_operator_may_see_is_kept(system: System, consoles: Consoles) -> None:
    """Every page and every action, with and without a session, also errors, redirects and the page with a secret: no
    browser and no proxy may store the response, and no other site gets its address.
    """
    party = await system.party()
    async with consoles.browser() as browser, consoles.browser() as stranger:
        await browser.sign_in(await make_operator(system.deps, Permission.ADMIN))
        client = f"/apis/{party.api.api_id}/clients/{party.id}"
        secret = await browser.post(f"{PATH}{client}/secret")
        assert party.secret in secret.text
        made = await browser.post(f"{PATH}/operators", {"name": "Ada", "permissions": "read"})
        assert "tw_ok_" in made.text
        seen = [secret, made]
        names = {"api_id": party.api.api_id, "client_id": party.id}
        for route in PAGES:
            method, _, path = route.partition(" ")
            if not path.endswith("/stream"):
                path = PATH + re.sub(r"{(\w+)}", lambda found: names.get(found[1], "unknown"), path)
                if method == "GET":
                    seen += [await browser.get(path, follow=False), await stranger.get(path, follow=False)]
                else:
                    seen += [await browser.post(path, csrf="wrong"), await stranger.post(path, csrf="wrong")]
        seen += [await browser.get(path, follow=False) for path in ("/console/nothing", "/console/sign-in")]
    assert {page.status for page in seen} >= {200, 303, 403, 404}
    for page in seen:
        assert page.headers["Cache-Control"] == "no-store", page.url
        assert page.headers["Referrer-Policy"] == "same-origin", page.url
        assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"], page.url


async def test_the_stream_of_events_is_not_kept(system: System, browser: Browser) -> None:
    """It has the headers of every page."""
    await browser.sign_in(await make_operator(system.deps, Permission.READ))
    async with browser.http.get(f"{browser.base}/console/events/stream") as response:
        assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")


# The end of sessions

Change = Callable[[System, str], Awaitable[object]]


async def _delete(system: System, operator_id: str) -> None:
    assert (await system.operator("DELETE", f"{OPERATORS}/{operator_id}")).status == 200


async def _rotate(system: System, operator_id: str) -> None:
    assert (await system.operator("POST", f"{OPERATORS}/{operator_id}/rotate")).status == 200


async def _permit_nothing_here(system: System, operator_id: str) -> None:
    changes = {"name": "Ada", "permissions": ["authorize"]}
    assert (await system.operator("PUT", f"{OPERATORS}/{operator_id}", json=changes)).status == 200


async def _let_expire(system: System, operator_id: str) -> None:
    until = (system.clock() + timedelta(minutes=5)).isoformat()
    changes = {"name": "Ada", "permissions": ["read", "write"], "expires_at": until}
    assert (await system.operator("PUT", f"{OPERATORS}/{operator_id}", json=changes)).status == 200
    system.clock.advance(301)


async def _ada(system: System) -> tuple[str, str]:
    """A new operator with `read` and `write`: id and key."""
    made = await system.operator("POST", OPERATORS, json={"name": "Ada", "permissions": ["read", "write"]})
    return str(made.body["operator_id"]), str(made.body["key"])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_delete, id="deleted"),
        pytest.param(_rotate, id="key-rotated"),
        pytest.param(_permit_nothing_here, id="without-read"),
        pytest.param(_let_expire, id="expired"),
    ],
)
async def test_every_session_of_an_operator_ends_with_the_key(
    system: System, consoles: Consoles, change: Change
) -> None:
    """In each browser, the next request leads to the sign-in form and changes nothing; the key begins no session."""
    operator_id, key = await _ada(system)
    party = await system.party()
    place = f"{PATH}/apis/{party.api.api_id}/clients/{party.id}"
    async with consoles.browser() as first, consoles.browser() as second:
        for browser in (first, second):
            assert (await browser.sign_in(key)).status == 200
        form = await second.get(f"{place}/delete")
        await change(system, operator_id)
        assert (await first.get("/console/apis", follow=False)).headers[
            "Location"
        ] == "/console/sign-in?next=/console/apis"
        ended = await second.post(f"{place}/delete", csrf=form.csrf)
        assert ended.url.path == "/console/sign-in"
        assert await system.deps.store.clients.get(party.id) is not None
        # Not only refused: over, so that nobody is let in again when the operator is changed back.
        assert not [cookie for cookie in first.http.cookie_jar if cookie.key == COOKIE and cookie["path"] == PATH]
        assert (await first.sign_in(key)).status in {401, 403}


async def test_permissions_that_are_taken_away_are_gone_with_the_next_request(
    system: System, consoles: Consoles
) -> None:
    """A form that was open before is refused with the permission's name, and its page offers the action no more."""
    operator_id, key = await _ada(system)
    party = await system.party()
    place = f"{PATH}/apis/{party.api.api_id}/clients/{party.id}"
    async with consoles.browser() as browser:
        await browser.sign_in(key)
        form = await browser.get(f"{place}/delete")
        changes = {"name": "Ada", "permissions": ["read"]}
        assert (await system.operator("PUT", f"{OPERATORS}/{operator_id}", json=changes)).status == 200
        refused = await browser.post(f"{place}/delete", csrf=form.csrf)
        assert (refused.status, "lacks the permission write" in refused.plain) == (403, True)
        assert await system.deps.store.clients.get(party.id) is not None
        assert f"{place}/delete" not in (await browser.get(place)).text


async def test_a_key_that_works_for_a_while_after_its_rotation_keeps_its_sessions_for_so_long(
    system: System, consoles: Consoles
) -> None:
    """The overlap of a rotation is for programs, and holds for browsers too: then the session ends."""
    operator_id, key = await _ada(system)
    async with consoles.browser() as browser:
        await browser.sign_in(key)
        rotated = await system.operator("POST", f"{OPERATORS}/{operator_id}/rotate", json={"overlap": 600})
        assert rotated.status == 200
        assert (await browser.get("/console/apis", follow=False)).status == 200
        system.clock.advance(601)
        assert (await browser.get("/console/apis", follow=False)).status == 303


# Guessing


async def test_who_tries_many_keys_has_to_wait(mongodb_url: str) -> None:
    """After a few wrong keys from one address the form says so with 429 and Retry-After, for the right key too; each
    attempt counts once, and later the right key works.
    """
    async with (
        open_system(mongodb_url, throttle_address="4/60") as system,
        console_of(system.call) as consoles,
        consoles.browser() as browser,
    ):
        key = await make_operator(system.deps, Permission.READ)
        statuses = [(await browser.sign_in(f"tw_ok_{number}")).status for number in range(6)]
        assert statuses == [401, 401, 401, 401, 429, 429]
        refused = await browser.sign_in(key)
        assert (refused.status, int(refused.headers["Retry-After"]) > 0) == (429, True)
        assert not [cookie for cookie in browser.http.cookie_jar if cookie.key == COOKIE]
        system.clock.advance(61)
        assert (await browser.sign_in(key)).status == 200


async def test_many_attempts_at_once_are_no_way_around(mongodb_url: str) -> None:
    """Twenty at the same time: at most the limit are tried."""
    async with open_system(mongodb_url, throttle_address="4/60") as system, console_of(system.call) as consoles:

        async def attempt(number: int) -> int:
            async with consoles.browser() as browser:
                return (await browser.sign_in(f"tw_ok_{number}")).status

        statuses = await asyncio.gather(*map(attempt, range(20)))
    assert statuses.count(401) <= 4
    assert set(statuses) <= {401, 429}
