"""Requests refused for their size before any work, and limits on what anonymous callers make a process store."""

import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest

from libs import throttle
from libs.client_address import LONGEST_FORWARDED, TrustedProxies
from libs.http.routing import MAX_PATH, MAX_SEGMENTS
from services.authorization import key_rules
from tests.eventually import eventually
from tests.services.system import Clock, Party, System, basic, open_system, raw, refused


async def asked(system: System, path: str) -> tuple[int, dict[str, str]]:
    """Status and body of the response to this raw path."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    head, _, body = (await raw(system.call, request)).partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), orjson.loads(body)


LONG = ("is over", MAX_PATH, 414)
MANY = ("has over", MAX_SEGMENTS, 400)


@pytest.mark.parametrize(
    ("tail", "refusal"),
    [
        pytest.param("a" * MAX_PATH, LONG, id="long"),
        pytest.param("/" * MAX_SEGMENTS, MANY, id="slashes"),
        pytest.param("%2F" * MAX_SEGMENTS, MANY, id="encoded-slashes"),
        pytest.param("/" * MAX_PATH, LONG, id="both"),
    ],
)
async def test_a3_a_path_over_the_limits_is_refused_in_the_envelope_of_its_place(
    system: System, tail: str, refusal: tuple[str, int, int]
) -> None:
    """An oversized path is refused in its place's format (management or RFC 6749), with the limit in the text."""
    says, limit, status = refusal
    answered, body = await asked(system, f"/anywhere/{tail}")
    assert (answered, body["error"]) == (status, "invalid_request")
    assert f"{says} {limit}" in body["error_description"]
    answered, body = await asked(system, f"/api/apis/{tail}")
    assert (answered, body["Status"]) == (status, "Error")
    assert f"{says} {limit}" in body["Message"]


@pytest.mark.parametrize(("tail", "status"), [("a" * MAX_PATH, 414), ("/" * 257, 400), ("%5C" * 257, 400)])
async def test_a3_a_forwarded_uri_has_the_limits_of_a_path(system: System, tail: str, status: int) -> None:
    """The path in a forwarded URI has the same limit as any path, although headers may be twice as long."""
    for header in ("X-Forwarded-Uri", "X-Original-URI"):
        response = await system.call("GET", "/verify", headers={header: f"/x/{tail}"})
        assert response.status == status
        assert refused(response, "invalid_request", status)


# Addresses


LONGEST = ("10.0.0.1," * 200)[:LONGEST_FORWARDED]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([LONGEST + "1"], id="one-line"),
        pytest.param(["x" * 16_000], id="no-address"),
        pytest.param([LONGEST[:600], LONGEST[:600]], id="two-lines"),
    ],
)
@pytest.mark.parametrize("path", ["/healthz", "/api/apis", "/nowhere/oauth/token"])
async def test_a7_a_longer_x_forwarded_for_is_refused(throttled: System, path: str, lines: list[str]) -> None:
    """An oversized X-Forwarded-For is refused before it is parsed or stored; the text names the limit."""
    told = "".join(f"X-Forwarded-For: {line}\r\n" for line in lines)
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{told}\r\n".encode()
    head, _, body = (await raw(throttled.call, request)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert f"over {LONGEST_FORWARDED} characters".encode() in body
    assert (b'"Status":"Error"' in body) is path.startswith("/api/")


def test_a7_stored_addresses_are_bounded_in_bytes() -> None:
    """Oversized or untrusted values are not stored."""
    proxies = TrustedProxies.parse("10.0.0.0/8")
    for number in range(50):
        assert proxies.client("10.0.0.1", f"192.0.2.1,{'x' * 70_000}{number}") == "10.0.0.1"
        assert proxies.client("192.0.2.7", f"192.0.2.1,{number}") == "192.0.2.7"
    assert proxies._of.cache_info().currsize == 2
    assert proxies.client("10.0.0.1", "192.0.2.1") == "192.0.2.1"
    assert proxies._of.cache_info().maxsize * LONGEST_FORWARDED <= 4 * 1024 * 1024  # type: ignore[operator]


# Failed authentication


@pytest.fixture(name="throttled")
async def _throttled(mongodb_url: str) -> AsyncIterator[System]:
    """Limits that are never reached, and addresses set by the caller."""
    async with open_system(mongodb_url, clock=Clock(), trusted_proxies="127.0.0.1") as system:
        yield system


def at(number: int, party: Party) -> Party:
    """The client at the address with this number."""
    call = party.system.call
    headers = {"X-Forwarded-For": f"2001:db8:0:{number:x}::1"}
    return replace(party, system=replace(party.system, call=replace(call, headers=call.headers | headers)))


LONG_IDS = [
    pytest.param("x" * 63_000, id="63-kB"),
    pytest.param("x" * 129, id="one-too-long"),
    pytest.param("x\n" * 50, id="line-breaks"),  # also too long as the text that Basic sends for it
    pytest.param("é" * 100, id="not-ascii"),
]


@pytest.mark.parametrize("client_id", LONG_IDS)
async def test_a4_an_id_that_no_client_can_have_is_refused_and_not_kept(throttled: System, client_id: str) -> None:
    """An id that no client can have is refused without look-up or counter, since it cannot be guessed."""
    party = await throttled.party()
    for number in range(8):
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": "x" * 32}
        caller = at(number, party).system.call
        assert refused(await caller("POST", party.at("oauth/token"), data=form), "invalid_client", 401)
        if len(client_id) < 1000:
            headers = {"Authorization": basic(client_id, "x" * 32)}
            response = await caller("POST", party.at("oauth/token"), data={"grant_type": "x"}, headers=headers)
            assert refused(response, "invalid_client", 401)
    assert len(throttled.deps.throttle) == 0


@pytest.mark.parametrize("username", ["x" * 60_000, "x" * 257, "a/b"])
async def test_a4_a_name_that_no_user_can_have_is_refused_and_kept_as_a_digest(
    throttled: System, username: str
) -> None:
    """An impossible user name is refused like a wrong password, after the same work; its counter uses a 20-byte
    digest.
    """
    party = await throttled.party()
    for number in range(4):
        response = await at(number, party).password(username, "wrong")
        assert refused(response, "invalid_grant")
    assert {len(subject) for subject, _ in throttled.deps.throttle._windows} == {20}


async def test_a4_counters_have_a_bound_and_no_name_in_them(throttled: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number and size of counters are bounded, however many ids and addresses are tried."""
    monkeypatch.setattr(throttle, "MAX_COUNTERS", 16)
    party = await throttled.party()
    for number in range(40):
        outsider = replace(
            at(number, party),
            client=party.client.model_copy(update={"client_id": f"{'x' * 120}{number}"}),
            secret="y" * 32,
        )
        assert (await outsider.token({"grant_type": "client_credentials"})).status == 401
        assert (await at(number, party).password(f"{'u' * 250}{number}", "wrong")).status == 400
    counters = throttled.deps.throttle._windows
    assert len(throttled.deps.throttle) == len(counters) == 16
    assert {len(subject) for subject, _ in counters} == {20}
    assert {len(window.key) for window in counters.values()} <= set(range(41, 56))


async def test_a4_counters_of_windows_that_have_ended_go_by_themselves(
    throttled: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters of ended windows are removed by a timer, without further requests."""
    monkeypatch.setattr(throttle, "SWEEP_EVERY", 0.02)
    party = await throttled.party()
    assert (await replace(party, secret="y" * 32).token({"grant_type": "client_credentials"})).status == 401
    assert len(throttled.deps.throttle) == 2
    throttled.clock.advance(3600)
    await eventually(lambda: len(throttled.deps.throttle) == 0)


# Regular expressions in key_rules


def rules(api_id: str, *expressions: str) -> str:
    """Access rights for the API with these expressions."""
    urls = [{"url": expression, "methods": ["GET"]} for expression in expressions]
    return orjson.dumps({"access_rights": {api_id: {"api_id": api_id, "allowed_urls": urls}}}).decode()


@pytest.mark.parametrize(
    ("expressions", "says"),
    [
        pytest.param(["/a"] * 65, "over 64 allowed_urls", id="too-many"),
        pytest.param(["a" * 513], "over 512 characters", id="too-long"),
        pytest.param(["a" * 500] * 17, "over 8192 characters", id="too-long-together"),
        pytest.param([r"\pL" * 17], "16 Unicode classes", id="too-many-classes"),
        pytest.param([r"(?:[^a-z]{1,20}){1,1000}" * 20], "not a valid RE2 regular expression", id="too-large-compiled"),
    ],
)
async def test_a17_expressions_that_would_take_long_are_refused(
    system: System, expressions: list[str], says: str
) -> None:
    """An expensive expression is refused, with the limit in the text."""
    party = await system.party()
    response = await party.authorize_client(key_rules=rules(party.api.api_id, *expressions))
    assert (response.status, response.body["error"]) == (400, "invalid_request")
    assert says in response.body["error_description"]


async def test_a17_expressions_are_compiled_off_the_event_loop(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest accepted expression is compiled off the event loop."""
    threads = []

    def compiled(rights: object) -> None:
        threads.append(threading.current_thread())

    monkeypatch.setattr(key_rules, "first_unusable", compiled)
    party = await system.party()
    response = await party.authorize_client(key_rules=rules(party.api.api_id, *(["/a" * 64] * 64)))
    assert response.status == 200
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
