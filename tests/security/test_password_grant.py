"""The password grant (RFC 6749 §4.3; RFC 9700 §2.4): rows 86, 87, 89 and 90. Row 88 is in test_throttling.py."""

from tests.acceptance.stack import Stack
from tests.acceptance.subscriber import subscribed
from tests.acceptance.tenants import SCHEME, issued
from tests.acceptance.webhooks import Receiver
from tests.builders import unique
from tests.security.apps import App, User, basic, new_api, refused

FLOWS = "components__securitySchemes__tykOAuth__flows"


async def test_086_the_grant_is_off_unless_the_api_asks_for_it(cluster: Stack, alice: User) -> None:
    """The grant is neither advertised nor accepted unless the definition enables it."""
    code = {"authorizationUrl": "/oauth/authorize", "tokenUrl": "/oauth/token", "scopes": {}}
    app = await (await new_api(cluster, **{FLOWS: {"authorizationCode": code}})).app()
    assert "password" not in (await app.metadata())["grant_types_supported"]
    for place in app.over(cluster, "token", 2):
        assert refused(await place.password(alice), "unsupported_grant_type")


async def test_087_an_unknown_user_is_refused_like_a_wrong_password(cluster: Stack, web: App, alice: User) -> None:
    """Unknown and inactive users are refused byte for byte like a wrong password. Timing is tested in
    test_timing.py.
    """
    idle = await User.new(cluster, active=False)
    responses = [await web.password(alice, password="nothing but wrong"), await web.password(idle)]
    for username in (unique("nobody"), "$ne", "\u00e4" * 200, f"{alice.username} "):
        responses.append(await web.password(alice, username=username))
    assert all(refused(response, "invalid_grant") for response in responses)
    assert len({response.raw for response in responses}) == 1
    assert (await web.password(alice)).status == 200


async def test_089_the_client_must_prove_itself(web: App, spa: App, alice: User) -> None:
    """Without client authentication the response does not reveal whether the password is right; public clients are
    refused.
    """
    form = {"grant_type": "password", "username": alice.username, "password": alice.password}
    wrong = {"Authorization": basic(web.client_id, "nothing-but-wrong")}
    responses = [await web.post("token", form | {"client_id": web.client_id})]
    responses += [
        await web.post("token", form | more, headers=wrong) for more in ({}, {"password": "no password of theirs"})
    ]
    assert all(refused(response, "invalid_client", 401) for response in responses)
    assert len({response.raw for response in responses}) == 1
    assert refused(await spa.password(alice), "unauthorized_client")


async def test_090_a_password_is_written_down_nowhere(cluster: Stack, receiver: Receiver) -> None:
    """No password, right or wrong, appears in logs, events or webhooks; see also row 100."""
    path, user = f"/hooks/{unique('password')}", await User.new(cluster)
    api = await new_api(cluster, **{f"{SCHEME}__notifications": {"onKeyChangeUrl": receiver.url(path)}})
    app, wrong = await api.app(), "a wrong password of theirs"
    async with subscribed(cluster.servers.amqp_url, "#") as subscriber:
        pair = issued(await app.password(user))
        await app.password(user, password=wrong)
        await app.post("token", "", params={"grant_type": "password", "password": wrong}, headers=app.basic)
        await app.post("token", f'{{"password": "{wrong}"', headers={"Content-Type": "application/json"})
        await user.managed("PUT", password=f"{wrong} and another")
        await receiver.hears(path, new_oauth_token=pair.access)
        await subscriber.hears("notification.delivered", api_id=api.api_id)
        await subscriber.hears("resource_owner.updated", username=user.username)
    secrets = {user.password, wrong}
    said = [repr(event) for event in subscriber.events.values()]
    said += [webhook.raw.decode() for webhook in receiver.saying(path)]
    said += [cluster.logs(name) for name in (*cluster.instances, "edge")]
    assert not any(secret in text for secret in secrets for text in said)
