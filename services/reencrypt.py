"""`python -m services reencrypt`: the step of a key rotation that encrypts stored values with the new current key."""

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
from libs.store.records import Reencryption
from libs.store.store import Store
from services.command_store import stored

LEFT = 1
"""The exit status if some record could not be re-encrypted."""


class ReencryptSettings(Settings):
    """Where MongoDB is, and the key ring; the command needs no other setting."""

    amqp_url: SecretStr = SecretStr("")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to `python -m services`."""
    about = "Encrypt with the current key what older keys of the ring have encrypted in MongoDB. Safe to run again."
    commands.add_parser("reencrypt", help="encrypt stored values with the current key of the ring", description=about)


def run(_: argparse.Namespace) -> int:
    """Re-encrypt and print a summary. The exit status; raises StoreUnreadable, and WrongSetting."""
    settings = load(ReencryptSettings)
    logging.configure("critical", False, "tokenwire")
    return asyncio.run(_reencrypt(settings))


async def _reencrypt(settings: Settings) -> int:
    async with stored(settings) as (store, keys):
        outcomes = {"API": store.apis.reencrypt(), "client": store.clients.reencrypt(keys, utc_now())}
        left = [line for noun, each in outcomes.items() for line in await _done(noun, each, keys.current)]
        sys.stdout.write("".join(f"{line}\n" for line in left) or await _conclusion(store, keys.current))
        return LEFT if left else 0


async def _done(noun: str, outcomes: AsyncIterator[Reencryption], current: int) -> list[str]:
    """Print how many records were re-encrypted; a line for each that could not be."""
    found = [outcome async for outcome in outcomes]
    done = sum(outcome.refusal is None for outcome in found)
    sys.stdout.write(f"{done} {noun}{'' if done == 1 else 's'} reencrypted with key {current}\n")
    return [f"{noun} {each.key} left: {each.refusal}; {_REMEDIES[noun]}" for each in found if each.refusal]


_REMEDIES = {
    "API": "put its key back into the ring, or replace the definition (PUT /api/apis/{api_id})",
    "client": "rotate its secret (PUT /api/apis/oauth/{api_id}/{client_id}/rotate) before the old key goes",
}


async def _conclusion(store: Store, current: int) -> str:
    longest = max(map(_longest_token, await store.apis.all()), default=timedelta())
    days = -(-longest // timedelta(days=1))
    return (
        f"everything stored is encrypted with key {current}; tokens of older keys end within {days} days of the moment "
        f"from which every service uses key {current}\n"
    )


def _longest_token(api: Api) -> timedelta:
    if api.oauth is None:
        return timedelta()
    refresh = api.oauth.refresh_token_lifetime if api.oauth.refresh_token else timedelta()
    return max(api.oauth.access_token_lifetime, min(refresh, api.oauth.grant_lifetime))
