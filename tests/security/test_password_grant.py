"""The password grant (RFC 6749 §4.3; RFC 9700 §2.4): rows 86, 87, 89 and 90. Row 88 is in test_throttling.py."""

from tests.acceptance.stack import Stack
from tests.acceptance.subscriber import subscribed
from tests.acceptance.tenants import SCHEME, issued
from tests.acceptance.webhooks import Receiver
from tests.builders import unique
from tests.security.apps import App, User, basic, new_api, refused

FLOWS = "components__securitySchemes__tykOAuth__flows"


async def test_086_the_grant_is_off_unless_the_api_asks_for_it(cluster: Stack, alice: User) -> None:
    """Neither advertised nor answered where the definition has no such flow."""
    code = {"authorizationUrl": "/oauth/authorize", "tokenUrl": "/oauth/token", "scopes": {}}
    app = await (await new_api(cluster, **{FLOWS: {"authorizationCode": code}})).app()
    assert "password" not in (await app.metadata())["grant_types_supported"]
    for place in app.over(cluster, "token", 2):
        assert refused(await place.password(alice), "unsupported_grant_type")


async def test_087_an_unknown_user_is_refused_like_a_wrong_password(cluster: Stack, web: App, alice: User) -> None:
    """Byte for byte, and so is one who is not active; that the time is the same is in test_timing.py."""
    idle = await User.new(cluster, active=False)
    answers = [await web.password(alice, password="nothing but wrong"), await web.password(idle)]
    for username in (unique("nobody"), "$ne", "\u00e4" * 200, f"{alice.username} "):
        answers.append(await web.password(alice, username=username))
    assert all(refused(answer, "invalid_grant") for answer in answers)
    assert len({answer.raw for answer in answers}) == 1
    assert (await web.password(alice)).status == 200


async def test_089_the_client_must_prove_itself(web: App, spa: App, alice: User) -> None:
    """Whoever has the right password and no client learns nothing of it; a client without a secret may not ask."""
    form = {"grant_type": "password", "username": alice.username, "password": alice.password}
    wrong = {"Authorization": basic(web.client_id, "nothing-but-wrong")}
    answers = [await web.post("token", form | {"client_id": web.client_id})]
    answers += [
        await web.post("token", form | more, headers=wrong) for more in ({}, {"password": "no password of theirs"})
    ]
    assert all(refused(answer, "invalid_client", 401) for answer in answers)
    assert len({answer.raw for answer in answers}) == 1
    assert refused(await spa.password(alice), "unauthorized_client")


async def test_090_a_password_is_written_down_nowhere(cluster: Stack, receiver: Receiver) -> None:
    """Neither in a log, nor in an event, nor in a webhook, right or wrong, wherever it was said; see row 100, too."""
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
