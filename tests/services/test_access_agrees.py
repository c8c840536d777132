"""C1: the proxy, `/verify` and introspection agree about every grant, whatever its policies and `key_rules` are."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.policies import AccessRight
from tests.builders import make_policy
from tests.fuzz.extent import examples
from tests.services.system import Party, System, auth_token, document, open_system, tokens_of
from tests.services.upstreams import Upstream, upstream
from tests.unit.tyk_definitions import changed

URL = "x-tyk-api-gateway/upstream/url"
NAMES, METHODS = ("a", "b"), ("GET", "POST")
NOT_THIS_PATH = {"Access to this resource has been disallowed", "Requested endpoint is forbidden"}
VERSIONS, VERSION_HEADER = ("v1", "v2"), "X-Api-Version"
TYK = "x-tyk-api-gateway"
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Four APIs: the issuing one, another with OAuth, one with Auth Token, and one with versions and guards."""

    system: System
    parties: tuple[Party, ...]
    run: Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="module", name="world")
def _world(mongodb_url: str) -> Iterator[World]:
    with asyncio.Runner() as runner:
        behind = upstream()
        served: Upstream = runner.run(behind.__aenter__())
        opened = open_system(mongodb_url)
        system = runner.run(opened.__aenter__())

        async def apis() -> tuple[Party, ...]:
            definitions = (document(), document(), auth_token(), guarded())
            return tuple([await system.party(changed(each, URL, served.url)) for each in definitions])

        yield World(system, runner.run(apis()), runner.run)
        runner.run(opened.__aexit__(None, None, None))
        runner.run(behind.__aexit__(None, None, None))


def guarded() -> dict[str, Any]:
    """An API with two versions, on which nobody may POST to `b`, and of whose `a` the rate is limited."""
    versioning = {"enabled": True, "name": "v1", "default": "v1", "location": "header", "key": VERSION_HEADER}
    made = changed(document(), f"{TYK}/info/versioning", versioning | {"versions": [{"name": "v2", "id": "x"}]})
    made = changed(made, "paths", {"/a": {"get": {"operationId": "a"}}, "/b": {"post": {"operationId": "b"}}})
    rate = {"enabled": True, "rate": 1_000_000, "per": "1s"}
    return changed(made, f"{TYK}/middleware/operations", {"a": {"rateLimit": rate}, "b": {"block": {"enabled": True}}})


_urls = st.lists(
    st.fixed_dictionaries(
        {"url": st.sampled_from(["/a$", "/b$", "/(a|b)$"]), "methods": st.lists(st.sampled_from(METHODS), max_size=1)}
    ),
    max_size=2,
)
_rights = st.dictionaries(
    st.integers(0, 3),
    st.fixed_dictionaries(
        {"allowed_urls": _urls, "versions": st.lists(st.sampled_from(VERSIONS), min_size=1, max_size=2, unique=True)}
    ),
    max_size=4,
)
_fields = st.fixed_dictionaries(
    {}, optional={"is_inactive": st.booleans(), "active": st.booleans(), "rate": st.just(10_000), "per": st.just(1)}
)
_holder = st.none() | st.lists(st.tuples(_rights, _fields), min_size=1, max_size=2)


async def made(world: World, policies: list[tuple[Any, Any]] | None) -> tuple[str, ...]:
    """Store the policies; return their ids."""
    ids = []
    for rights, fields in policies or ():
        granted = {}
        for index, right in rights.items():
            api_id = world.parties[index].api.api_id
            granted[api_id] = AccessRight.model_validate({"api_id": api_id, **right})
        ids.append((await make_policy(world.system.deps, access_rights=granted, **fields)).policy_id)
    return tuple(ids)


async def require_agreement(world: World, token: str) -> None:
    """What each door says about each call of each API, and about the token."""
    system, headers = world.system, {"Authorization": f"Bearer {token}"}
    shown = (await system.operator("POST", "/oauth/introspect", data={"token": token})).body
    aud = set(shown.get("aud", ()))
    assert shown["active"] is bool(aud)
    for party in world.parties:
        versions = VERSIONS if party.api.versioning else ("",)
        refusals = [await refused(system, party, headers | {VERSION_HEADER: version}) for version in versions]
        # A token may open an API although none of these calls is allowed; then only rules about paths refuse them.
        opens = any(said <= NOT_THIS_PATH for said in refusals)
        assert (party.api.api_id in aud) is opens, refusals


async def refused(system: System, party: Party, headers: dict[str, str]) -> set[str]:
    """The refusals of some calls, which are the same at both doors."""
    refusals = set()
    for name in NAMES:
        for method in METHODS:
            about = {"X-Forwarded-Uri": party.at(name), "X-Forwarded-Method": method}
            verified = await system.call("GET", "/verify", headers=headers | about)
            proxied = await system.call(method, party.at(name), headers=headers)
            assert verified.status == proxied.status, (method, name)
            if proxied.status != 200:
                assert verified.body == proxied.body
                refusals.add(proxied.body["error"])
    return refusals


@examples(25)
@given(_holder, _holder, _holder, st.none() | _rights)
def test_c1_proxy_verify_and_introspection_always_agree(
    world: World, of_client: Any, of_user: Any, applied: Any, rights: Any
) -> None:
    """For a code grant with `key_rules`, for a password grant, and for the client's own token."""

    async def scene() -> None:
        system, issuing = world.system, world.parties[0]
        party = await system.client_of(issuing.api, policy_ids=await made(world, of_client))
        user = await system.user(policy_ids=await made(world, of_user))
        rules: dict[str, Any] = {"apply_policies": list(await made(world, applied))}
        if rights is not None:
            rules["access_rights"] = {world.parties[index].api.api_id: right for index, right in rights.items()}
        await require_agreement(world, tokens_of(await party.token({"grant_type": "client_credentials"})).access)
        await require_agreement(world, tokens_of(await party.password(user.username)).access)
        # Rules that would widen are refused before there is a token.
        answer = await party.authorize_client(key_rules=json.dumps(rules))
        if answer.status == 200:
            await require_agreement(world, tokens_of(await party.exchange(answer.body["code"])).access)

    world.run(scene())
