"""After a new key is current: `python -m services reseal` puts what the older ones sealed in MongoDB under it."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

from pydantic import SecretStr

from contracts.apis import Api
from libs import logging
from libs.runtime import utc_now
from libs.settings import Settings, load
from libs.store.records import Resealing
from libs.store.store import Store
from services.records import stored

LEFT = 1
"""The exit status where something could not be put under the current key."""


class ResealSettings(Settings):
    """Where MongoDB is, and the key ring; nothing else is needed here."""

    amqp_url: SecretStr = SecretStr("")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command, as what may follow `python -m services`."""
    about = "Put what older keys of the ring have sealed in MongoDB under the current one; twice does no more."
    commands.add_parser("reseal", help="put stored values under the current key of the ring", description=about)


def run(_: argparse.Namespace) -> int:
    """Do it, and print what was done; the exit status. Raises CannotLook, and WrongSetting."""
    settings = load(ResealSettings)
    logging.configure("critical", False, "tokenwire")
    return asyncio.run(_reseal(settings))


async def _reseal(settings: Settings) -> int:
    async with stored(settings) as (store, keys):
        sealed = {"API": store.apis.reseal(), "client": store.clients.reseal(keys, utc_now())}
        left = [line for noun, outcomes in sealed.items() for line in await _done(noun, outcomes, keys.current)]
        sys.stdout.write("".join(f"{line}\n" for line in left) or await _conclusion(store, keys.current))
        return LEFT if left else 0


async def _done(noun: str, outcomes: AsyncIterator[Resealing], current: int) -> list[str]:
    """A line for each record that was left as it was; how many were not is printed."""
    found = [outcome async for outcome in outcomes]
    done = sum(outcome.refusal is None for outcome in found)
    sys.stdout.write(f"{done} {noun}{'' if done == 1 else 's'} resealed under key {current}\n")
    return [f"{noun} {each.key} left: {each.refusal}; {_REMEDIES[noun]}" for each in found if each.refusal]


_REMEDIES = {
    "API": "put its key back into the ring, or replace the definition (PUT /api/apis/{api_id})",
    "client": "rotate its secret (PUT /api/apis/oauth/{api_id}/{client_id}/rotate) before the old key goes",
}


async def _conclusion(store: Store, current: int) -> str:
    longest = max(map(_longest_token, await store.apis.all()), default=timedelta())
    days = -(-longest // timedelta(days=1))
    return (
        f"everything stored is under key {current}; tokens of older keys end within {days} days of the moment from "
        f"which every service writes under key {current}\n"
    )


def _longest_token(api: Api) -> timedelta:
    if api.oauth is None:
        return timedelta()
    refresh = api.oauth.refresh_token_lifetime if api.oauth.refresh_token else timedelta()
    return max(api.oauth.access_token_lifetime, min(refresh, api.oauth.grant_lifetime))
