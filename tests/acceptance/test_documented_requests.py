"""Every request in documented-requests.md, run in a shell exactly as written there."""

import base64
import re
import secrets
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import pytest

from tests.acceptance.curl import filled_in, pasted
from tests.acceptance.stack import Stack
from tests.acceptance.tenants import SCHEME, NewTenant, import_api, register_client
from tests.acceptance.webhooks import Receiver, Webhook
from tests.builders import Response, api_document, unique
from tests.eventually import eventually
from tests.unit.tyk_definitions import DATA

REDIRECT_URI = "http://identityserver.com/client-redirect-uri"
LOGIN_PAGE = "http://identityserver.com/login?from=my-api"
SHARED_SECRET = "the-shared-secret-of-my-api"
HOOK = "/hooks/my-api"
FIVE_KEYS = ("auth_code", "new_oauth_token", "refresh_token", "old_refresh_token", "notification_type")
ROWS = 10


def _commands() -> dict[int, str]:
    """The commands by row. A command that begins with … continues row 3's up to its headers."""
    rows = re.split(r"^\d+\. ", (DATA / "documented-requests.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(rows) == ROWS
    found: dict[int, str] = {}
    for number, row in enumerate(rows, 1):
        for span in re.findall(r"`([^`]+)`", row):
            if span.startswith(("curl ", "… ")):
                found[number] = span.replace("… ", f"{found[3].partition(' -H ')[0]} ") if span[0] == "…" else span
    return found


COMMANDS = _commands()
TOKEN = COMMANDS[3].partition(" -H ")[0]


@dataclass(frozen=True)
class MyApi:
    """What the document assumes: an API at /my-api/, a client, a user, and a webhook receiver."""

    stack: Stack
    receiver: Receiver
    api_id: str
    client_id: str
    secret: str
    username: str
    password: str

    async def paste(self, command: str, **more: str) -> Response:
        """Run the documented command; `more` fills in values that vary."""
        values = {
            "base": self.stack.url,
            "api-id": self.api_id,
            "id": self.client_id,
            "client-id": self.client_id,
            "secret": self.secret,
            "base64(id:secret)": base64.b64encode(f"{self.client_id}:{self.secret}".encode()).decode(),
            "…": base64.b64encode(f"{self.client_id}:{self.secret}".encode()).decode(),
            "operator key": self.stack.operator_key,
            "the same": quote(REDIRECT_URI, safe=""),
            "user": self.username,
            "password": self.password,
            **{name.replace("_", " "): value for name, value in more.items()},
        }
        response = await pasted(filled_in(command, values))
        self.stack.secrets.overhear(response.raw)
        return response

    async def code(self) -> str:
        return str((await self.paste(COMMANDS[2])).body["code"])

    async def pair(self) -> dict[str, Any]:
        """Run row 3 with a new code."""
        response = await self.paste(COMMANDS[3], code=await self.code())
        assert response.status == 200, response.raw
        return dict(response.body)

    async def call(self, access_token: str) -> Response:
        """Ask the forward-auth endpoint about row 10's call, as a proxy does."""
        asked = COMMANDS[10].replace("<base>/my-api/<path>", "<base>/verify -H 'X-Forwarded-Uri: /my-api/<path>'")
        return await self.paste(asked, path="orders/1", access_token=access_token)

    async def webhook(self, **said: str) -> Webhook:
        return await self.receiver.hears(HOOK, **said)


@pytest.fixture(scope="module", name="my_api")
async def _my_api(stack: Stack, receiver: Receiver) -> MyApi:
    changes: dict[str, Any] = {
        "x-tyk-api-gateway__server__listenPath__value": "/my-api/",
        f"{SCHEME}__authLoginRedirect": LOGIN_PAGE,
        f"{SCHEME}__notifications": {"onKeyChangeUrl": receiver.url(HOOK), "sharedSecret": SHARED_SECRET},
    }
    api_id = await import_api(stack.operator, api_document(**changes))
    client_id, secret = await register_client(stack.operator, api_id, redirect_uri=REDIRECT_URI)
    username, password = unique("user"), secrets.token_urlsafe(16)
    made = await stack.operator("POST", f"/api/apis/keys/basic/{username}", json={"password": password})
    assert made.status == 200, made.raw
    return MyApi(stack, receiver, api_id, client_id, secret, username, password)


def assert_tokens(response: Response, *, refresh: bool) -> None:
    """A successful token response (RFC 6749 §5.1) without further members."""
    assert response.status == 200, response.raw
    assert response.headers["Content-Type"].startswith("application/json")
    assert response.headers["Cache-Control"] == "no-store"
    assert set(response.body) == {"access_token", "expires_in", "token_type"} | (
        {"refresh_token"} if refresh else set()
    )
    assert (response.body["expires_in"], response.body["token_type"]) == (3600, "bearer")
    assert response.body["access_token"].startswith("tw_at_")


def assert_refused(response: Response, status: int = 403, message: str = "Key not authorised") -> None:
    """A refusal with Tyk's text and RFC 6750's header."""
    assert (response.status, response.body) == (status, {"error": message})
    assert response.headers["WWW-Authenticate"].startswith("Bearer ")


def test_no_row_is_left_out() -> None:
    """Every row is a command, except 8 and 9, which are prose."""
    assert sorted(COMMANDS) == [1, 2, 3, 4, 5, 6, 7, 10]


@pytest.mark.parametrize("place", ["my-api", "<api-id>"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_path_is_written_in_four_ways(my_api: MyApi, place: str, slash: str) -> None:
    """A path works with and without a trailing slash, under the listen path and under the API id."""

    def written(row: int) -> str:
        command = COMMANDS[row].replace("<base>/my-api/", f"<base>/{place}/")
        return re.sub(r"/ -H", f"{slash} -H", command, count=1)

    assert (await my_api.paste(written(1))).status == 307
    assert_tokens(await my_api.paste(written(3), code=(await my_api.paste(written(2))).body["code"]), refresh=True)
    token = (await my_api.paste(written(4))).body["access_token"]
    assert (await my_api.paste(written(7), token=token)).status == 200
    revoke = f"curl <base>/{place}/oauth/revoke{slash} -u <id>:<secret> -d token=<token>"
    assert (await my_api.paste(revoke, token=token)).status == 200
    metadata = await my_api.paste(f"curl <base>/.well-known/oauth-authorization-server/{place}{slash}")
    assert (metadata.status, metadata.body["issuer"]) == (200, f"{my_api.stack.url}/my-api")


async def test_1_an_authorization_request_is_sent_on_to_the_login_page(my_api: MyApi) -> None:
    """The browser is redirected to the definition's login page with 307, so that it re-posts a form."""
    response = await my_api.paste(COMMANDS[1])
    assert response.status == 307
    assert response.headers["location"] == LOGIN_PAGE


@pytest.mark.parametrize("path", ["/api/apis/oauth/<api-id>/authorize-client/", "/api/apis/<api-id>/authorize-client"])
async def test_2_the_identity_server_gets_a_code(my_api: MyApi, path: str) -> None:
    """Both addresses return the URL to redirect the browser to."""
    documented = "/api/apis/oauth/<api-id>/authorize-client/"
    assert documented in COMMANDS[2]
    response = await my_api.paste(COMMANDS[2].replace(documented, path))
    assert response.status == 200, response.raw
    assert response.headers["Content-Type"].startswith("application/json")
    assert set(response.body) == {"code", "redirect_to"}
    assert response.body["redirect_to"].startswith(f"{REDIRECT_URI}?code={response.body['code']}")


async def test_3_a_code_is_exchanged(my_api: MyApi) -> None:
    """A code works once. A repetition within seconds is refused as a retry, and the tokens stay valid."""
    code = await my_api.code()
    first = await my_api.paste(COMMANDS[3], code=code)
    assert_tokens(first, refresh=True)
    second = await my_api.paste(COMMANDS[3], code=code)
    assert (second.status, second.body["error"]) == (400, "invalid_grant")
    assert (await my_api.call(first.body["access_token"])).status == 200


@pytest.mark.parametrize("name", ["client_secret", "secret"])
async def test_4_client_credentials(my_api: MyApi, name: str) -> None:
    """client_credentials yields no refresh token; the parameter may be called `secret`."""
    assert "&client_secret=<secret>" in COMMANDS[4]
    response = await my_api.paste(COMMANDS[4].replace("&client_secret=", f"&{name}="))
    assert_tokens(response, refresh=False)
    assert (await my_api.call(response.body["access_token"])).status == 200


async def test_5_password(my_api: MyApi) -> None:
    """The password grant yields a refresh token, because this API enables it."""
    response = await my_api.paste(COMMANDS[5])
    assert_tokens(response, refresh=True)
    assert (await my_api.call(response.body["access_token"])).status == 200


async def test_6_refresh(my_api: MyApi) -> None:
    """Both tokens are new, and the old access token is refused."""
    old = await my_api.pair()
    response = await my_api.paste(COMMANDS[6], refresh_token=old["refresh_token"])
    assert_tokens(response, refresh=True)
    assert {response.body["access_token"], response.body["refresh_token"]}.isdisjoint(old.values())
    assert_refused(await my_api.call(old["access_token"]))
    assert (await my_api.call(response.body["access_token"])).status == 200


@pytest.mark.parametrize("hint", ["access_token", "refresh_token"])
@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_7_an_operator_revokes(my_api: MyApi, kind: str, hint: str) -> None:
    """Revoking an access token ends it alone; a refresh token ends its grant; a wrong hint does not matter."""
    pair = await my_api.pair()
    command = COMMANDS[7].replace("token_type_hint=access_token", f"token_type_hint={hint}")
    response = await my_api.paste(command, token=pair[kind])
    assert response.status == 200, response.raw
    assert response.body == {"Status": "OK", "Message": "token revoked successfully", "Meta": None}
    assert_refused(await my_api.call(pair["access_token"]))
    refresh = await my_api.paste(COMMANDS[6], refresh_token=pair["refresh_token"])
    assert refresh.status == (200 if kind == "access_token" else 400), refresh.raw


async def test_8_client_apps(my_api: MyApi) -> None:
    """A client is registered, listed, read and deleted."""
    operator, api = my_api.stack.operator, f"/api/apis/oauth/{my_api.api_id}"
    made = await operator("POST", api, json={"redirect_uri": REDIRECT_URI})
    assert made.status == 200, made.raw
    client = made.body
    my_api.stack.secrets.add_basic(client["client_id"], client["secret"])
    assert {"client_id", "secret", "redirect_uri", "policy_id", "meta_data", "description", "api_id"} <= set(client)
    assert (client["redirect_uri"], client["api_id"]) == (REDIRECT_URI, my_api.api_id)

    listed = await operator("GET", api)
    assert listed.status == 200
    assert {"apps", "pages"} == set(listed.body)
    assert client in listed.body["apps"]
    read = await operator("GET", f"{api}/{client['client_id']}")
    assert (read.status, read.body) == (200, client)

    deleted = await operator("DELETE", f"{api}/{client['client_id']}")
    assert (deleted.status, deleted.message) == (200, "OAuth client deleted successfully.")
    assert (await operator("GET", f"{api}/{client['client_id']}")).status == 404
    assert client not in (await operator("GET", api)).body["apps"]


def assert_genuine(webhook: Webhook, **said: str) -> None:
    """Tyk's format: five keys, empty if not applicable, with the shared secret; additionally a signature."""
    assert webhook.body == {**dict.fromkeys(FIVE_KEYS, ""), **said}
    assert webhook.headers["content-type"].startswith("application/json")
    assert webhook.headers["x-tyk-shared-secret"] == SHARED_SECRET
    assert webhook.is_signed_with(SHARED_SECRET)


async def test_9_webhooks_follow(my_api: MyApi) -> None:
    """Rows 3, 5 and 6 each send the right webhook; row 4 sends none."""
    alone = (await my_api.paste(COMMANDS[4])).body["access_token"]
    code = await my_api.code()
    first = (await my_api.paste(COMMANDS[3], code=code)).body
    second = (await my_api.paste(COMMANDS[6], refresh_token=first["refresh_token"])).body
    users = (await my_api.paste(COMMANDS[5])).body

    heard = [await my_api.webhook(new_oauth_token=pair["access_token"]) for pair in (first, second, users)]
    new = {"new_oauth_token": first["access_token"], "refresh_token": first["refresh_token"]}
    assert_genuine(heard[0], **new, auth_code=code, notification_type="new")
    refreshed = {"new_oauth_token": second["access_token"], "refresh_token": second["refresh_token"]}
    assert_genuine(heard[1], **refreshed, old_refresh_token=first["refresh_token"], notification_type="refresh")
    by_password = {"new_oauth_token": users["access_token"], "refresh_token": users["refresh_token"]}
    assert_genuine(heard[2], **by_password, notification_type="new")
    assert len({webhook.headers["webhook-id"] for webhook in heard}) == len(heard)
    assert my_api.receiver.saying(HOOK, new_oauth_token=alone) == []


async def test_10_the_protected_call(my_api: MyApi) -> None:
    """The call succeeds with a token, and not without one or with an unknown one."""
    response = await my_api.call((await my_api.pair())["access_token"])
    assert response.status == 200, response.raw
    assert response.headers["X-Tokenwire-Client-Id"] == my_api.client_id
    assert_refused(await my_api.call("tw_at_" + "A" * 76))
    bare = await pasted(f"curl {my_api.stack.url}/verify -H 'X-Forwarded-Uri: /my-api/orders/1'")
    assert_refused(bare, 400, "Authorization field missing")


async def test_the_analytics_count_what_was_asked(my_api: MyApi) -> None:
    """A client's usage after rows 3 to 7 is exactly what they did."""
    client_id, secret = await register_client(my_api.stack.operator, my_api.api_id, redirect_uri=REDIRECT_URI)
    client = replace(my_api, client_id=client_id, secret=secret)
    pair = await client.pair()
    await client.paste(COMMANDS[4])
    await client.paste(COMMANDS[5])
    refreshed = await client.paste(COMMANDS[6], refresh_token=pair["refresh_token"])
    await client.paste(COMMANDS[7], token=refreshed.body["access_token"])

    async def counted() -> bool:
        response = await my_api.stack.operator("GET", f"/api/analytics/clients?per=total&client_id={client_id}")
        assert response.status == 200, response.raw
        assert len(response.body["clients"]) == 1
        row = response.body["clients"][0]
        assert (row["api_id"], row["client_id"]) == (my_api.api_id, client_id)
        assert (row["issued"], row["refreshed"], row["revoked"]) == (3, 1, 1)
        return True

    await eventually(counted)


@pytest.mark.parametrize(
    ("place", "call"),
    [
        pytest.param(
            {"header": {"enabled": True, "name": "X-Token"}},
            "-H 'X-Forwarded-Uri: <path>/1' -H 'X-Token: Bearer <token>'",
            id="header",
        ),
        pytest.param(
            {"query": {"enabled": True, "name": "token"}},
            "-H 'X-Forwarded-Uri: <path>/1?a=b&token=<token>'",
            id="query",
        ),
        pytest.param(
            {"cookie": {"enabled": True, "name": "session"}},
            "-H 'X-Forwarded-Uri: <path>/1' -H 'Cookie: a=b; session=<token>'",
            id="cookie",
        ),
    ],
)
async def test_10_the_token_is_where_the_definition_says(
    stack: Stack, tenant_of: NewTenant, place: dict[str, Any], call: str
) -> None:
    """The token is accepted only in the header, query parameter or cookie that the definition names."""
    nowhere = {"header": {"enabled": False}, "query": {"enabled": False}, "cookie": {"enabled": False}}
    changes = {f"{SCHEME}__{source}": value for source, value in (nowhere | place).items()}
    tenant = await tenant_of(**changes)
    token = (await tenant.client_credentials()).body["access_token"]
    response = await pasted(filled_in(f"curl {stack.url}/verify {call}", {"path": tenant.path, "token": token}))
    assert response.status == 200, response.raw
    assert_refused(await tenant.verified(token), 400, "Authorization field missing")


async def test_10_an_expired_token_is_refused(tenant_of: NewTenant) -> None:
    """An expired token gets 401."""
    tenant = await tenant_of(**{"x-tokenwire": {"accessTokenLifetime": 1}})
    response = await tenant.client_credentials()
    assert response.body["expires_in"] == 1

    async def expired() -> bool:
        refused = await tenant.verified(response.body["access_token"])
        assert_refused(refused, 401, "Key has expired, please renew")
        return True

    await eventually(expired)
