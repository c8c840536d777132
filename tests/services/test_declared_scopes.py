"""Scopes declared by an API, registered for a client, and kept on refresh."""

from typing import Any

import pytest

from contracts.apis import Api
from tests.builders import api_document
from tests.services.system import Party, System, document, refused, tokens_of

FLOWS = "components__securitySchemes__tykOAuth__flows"
CREDENTIALS = {"grant_type": "client_credentials"}


def declaring(*scopes: str) -> dict[str, Any]:
    """A definition whose code flow declares the first scopes, and whose other flows the others."""
    names = {"authorizationCode": scopes[:1], "clientCredentials": scopes[1:2], "password": scopes[2:]}
    flow = {"authorizationUrl": "/oauth/authorize", "tokenUrl": "/oauth/token"}
    return document(**{FLOWS: {name: {**flow, "scopes": dict.fromkeys(some, "")} for name, some in names.items()}})


async def scope_of(party: Party, **form: str) -> str | None:
    """The granted scope, if the response contains one."""
    return tokens_of(await party.token({**CREDENTIALS, **form})).body.get("scope")


@pytest.mark.parametrize("asked", ["admin superuser", "admin", "read admin", "READ", "rea"])
async def test_a19_an_undeclared_scope_is_refused(system: System, asked: str) -> None:
    """An undeclared scope is refused entirely, for clients without their own scope, in every grant."""
    party, user = await system.party(declaring("read", "write")), await system.user()
    assert refused(await party.token({**CREDENTIALS, "scope": asked}), "invalid_scope")
    assert refused(await party.password(user.username, scope=asked), "invalid_scope")
    assert (await party.authorize_client(scope=asked)).body["error"] == "invalid_scope"
    query = f"oauth/authorize?response_type=code&client_id={party.id}&scope={asked.replace(' ', '+')}"
    assert "error=invalid_scope" in (await system.call("GET", party.at(query))).headers["Location"]


async def test_a19_scopes_of_any_flow_may_be_requested(system: System) -> None:
    """Any flow's scopes may be requested. Without a request, a client without its own scope gets none."""
    party = await system.party(declaring("read", "write", "more"))
    assert await scope_of(party, scope="more read write") == "more read write"
    assert await scope_of(party) is None


async def test_a19_a_definition_that_declares_none_grants_none(system: System) -> None:
    """A definition without scopes grants none, as in the product's example; tokens are still issued."""
    party = await system.party(declaring())
    assert await scope_of(party) is None
    assert refused(await party.token({**CREDENTIALS, "scope": "read"}), "invalid_scope")


async def test_a19_classic_declares_scopes_in_our_extension(system: System) -> None:
    """Tyk Classic definitions declare scopes in our extension, because they have no field for them."""
    party = await system.party(api_document("orders-classic.json", tokenwire={"scopes": ["read", "write"]}))
    assert await scope_of(party, scope="write") == "write"
    assert refused(await party.token({**CREDENTIALS, "scope": "admin"}), "invalid_scope")


async def test_a19_a_client_may_be_registered_for_fewer_and_not_for_others(system: System) -> None:
    """Registering an undeclared scope gets 400 with its name, also on edit; writing back what was read is no change."""
    party = await system.party(declaring("read", "write"))
    place = f"/api/apis/oauth/{party.api.api_id}"
    response = await system.operator("POST", place, json={"scope": "read"})
    assert (response.status, response.body["scope"]) == (200, "read")
    own = f"{place}/{response.body['client_id']}"
    for method, path in (("POST", place), ("PUT", own)):
        refusal = await system.operator(method, path, json={"scope": "read admin"})
        assert refusal.status == 400
        assert refusal.message == (
            "scope: the API's definition does not declare 'admin' (it declares read, write); "
            "add it to the scopes of its OAuth flows, or leave it out here"
        )
    await replaced(system, party.api, declaring("write"))
    assert (await system.operator("PUT", own, json=(await system.operator("GET", own)).body)).status == 200


async def replaced(system: System, api: Api, definition: dict[str, Any]) -> None:
    """Replace the API's definition."""
    extension = definition["x-tyk-api-gateway"]
    extension["info"]["id"] = api.api_id
    extension["server"]["listenPath"]["value"] = api.listen_path
    response = await system.operator("PUT", f"/api/apis/oas/{api.api_id}", json=definition)
    assert response.status == 200, response.body


async def edited(party: Party, **fields: Any) -> None:
    """Edit the client."""
    response = await party.system.operator("PUT", f"/api/apis/oauth/{party.api.api_id}/{party.id}", json=fields)
    assert response.status == 200, response.body


async def test_a16_a_narrowed_client_gets_a_narrower_token_by_refreshing(system: System) -> None:
    """After a client's scope was narrowed, refresh yields the narrower scope even if more is requested; the response
    names it.
    """
    party = await system.party(declaring("read", "write", "more"))
    tokens = await party.tokens(scope="read write more")
    await edited(party, scope="write read")
    tokens = await party.refreshed(tokens.refresh)
    assert tokens.body["scope"] == "read write"
    assert (await party.verify(tokens.access)).headers["X-Tokenwire-Scope"] == "read write"
    tokens = await party.refreshed(tokens.refresh, scope="read write more")
    assert tokens.body["scope"] == "read write"
    assert refused(await party.refresh(tokens.refresh, scope="more"), "invalid_scope")
    await edited(party, scope="more")
    tokens = await party.refreshed(tokens.refresh)
    assert tokens.body["scope"] == "more"
    await replaced(system, party.api, declaring("read"))
    tokens = await party.refreshed(tokens.refresh)
    assert tokens.body["scope"] == ""
    assert (await party.verify(tokens.access)).headers["X-Tokenwire-Scope"] == ""
    await edited(party, scope=None)
    tokens = await party.refreshed(tokens.refresh)
    assert tokens.body["scope"] == "read"


async def test_a16_a_code_gives_what_its_client_may_have_when_it_is_exchanged(system: System) -> None:
    """A code yields the scope that the client may have at the exchange."""
    party = await system.party(declaring("read", "write"))
    code = await party.code(scope="read write")
    await edited(party, scope="read")
    tokens = tokens_of(await party.exchange(code))
    assert tokens.body["scope"] == "read"


async def test_a19_the_metadata_says_what_is_declared(system: System) -> None:
    """RFC 8414 §2: `scopes_supported` lists the declared scopes, and is missing if there are none."""
    for scopes in (("read", "write"), ()):
        party = await system.party(declaring(*scopes))
        path = f"/.well-known/oauth-authorization-server{party.api.listen_path.rstrip('/')}"
        found = (await system.call("GET", path)).body
        assert found.get("scopes_supported") == (list(scopes) or None)
