"""Tyk API definitions, imported unchanged through the edge."""

from typing import Any

import pytest

from tests.acceptance.stack import Stack
from tests.unit.tyk_definitions import DATA, definition

pytestmark = pytest.mark.usefixtures("stack")


def with_id(document: dict[str, Any], api_id: str) -> dict[str, Any]:
    """The definition as it is returned: with its id."""
    if "api_id" in document:
        return document
    extension = document["x-tyk-api-gateway"]
    return {**document, "x-tyk-api-gateway": {**extension, "info": {**extension["info"], "id": api_id}}}


@pytest.mark.parametrize(
    ("name", "path", "listen_path"),
    [
        ("my-oauth-api.json", "/api/apis/oas", "/my-oauth-api"),
        ("orders-oas.json", "/api/apis/oas", "/orders"),
        ("orders-oas.json", "/api/apis", "/orders"),
        ("orders-classic.json", "/api/apis", "/orders"),
    ],
)
async def test_a_definition_is_returned_as_imported(stack: Stack, name: str, path: str, listen_path: str) -> None:
    """The definition is returned member for member from each address, listed, and served until it is deleted."""
    operator, document = stack.operator, definition(name)
    stack.secrets.overhear(document)
    body = (DATA / name).read_bytes()
    made = await operator("POST", path, data=body, headers={"Content-Type": "application/json"})
    assert made.status == 200, made.raw
    api_id = made.body["ID"]
    assert {**made.body, "Meta": api_id} == {"Status": "OK", "Message": "API created", "Meta": api_id, "ID": api_id}
    assert made.body["Meta"] == api_id or [made.body["Meta"]["api_id"], len(made.body["Meta"]["warnings"])] == [
        api_id,
        1,
    ]

    read = await operator("GET", f"{path}/{api_id}")
    assert (read.status, read.body) == (200, with_id(document, api_id))
    listed = await operator("GET", "/api/apis", headers={})
    assert api_id in [entry["api_definition"]["api_id"] for entry in listed.body["apis"]]
    metadata = await stack.anybody("GET", f"/.well-known/oauth-authorization-server{listen_path}")
    assert (metadata.status, metadata.body["issuer"]) == (200, f"{stack.url}{listen_path}")

    deleted = await operator("DELETE", f"{path}/{api_id}")
    assert (deleted.status, deleted.message) == (200, "API deleted")
    assert (await operator("GET", f"{path}/{api_id}")).status == 404
