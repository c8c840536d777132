"""The checks of `doctor`. Each returns what it found and, if something is wrong, what to do."""

import asyncio
import errno
import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr

from contracts.diagnosis import Check, failed, passed, skipped
from libs.bus.port import BusUnavailable
from libs.bus.rabbit import Broker, examine_broker
from libs.encryption import KEY_BYTES, KeyRing
from libs.oauth.errors import TemporarilyUnavailable
from libs.runtime import URLS, utc_now
from libs.settings import Settings, WrongSetting, load, misspelled
from libs.store.mongo import Mongo
from libs.store.outbox_collection import announce_nothing
from libs.store.store import Store
from services.health import ask
from services.notifier.settings import private_keys

OLDEST_MONGODB, OLDEST_RABBITMQ = (6, 0), (3, 10)
"""The oldest versions that the tests run with."""
CLOCK_WITHIN = timedelta(seconds=5)
LEAST_FREE = 1 << 30
"""Bytes that should be free in the data directory; MongoDB stops at 500 MB."""


class DoctorSettings(Settings):
    """The settings that are checked; none is required."""

    mongodb_url: SecretStr = SecretStr("")
    amqp_url: SecretStr = SecretStr("")
    keys: SecretStr = SecretStr("")
    notifier_private_keys: SecretStr = SecretStr("")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")


async def check_all(data: Path) -> Sequence[Check]:
    """All checks, for these settings of the environment and this data directory."""
    try:
        settings = load(DoctorSettings, URLS)
    except WrongSetting as wrong:
        remedy = "correct it in the environment; docs/reference/settings.md lists what is allowed"
        return [failed("settings", line, remedy) for line in str(wrong).splitlines()]
    checks = [*check_names(), check_keys(settings, data), *check_notifier_keys(settings, data)]
    checks += [check async for check in check_mongodb(settings)]
    checks += [check async for check in check_rabbitmq(settings)]
    checks.append(await asyncio.to_thread(check_port, settings.host, settings.port))
    return [*checks, check_disk(data, is_needed=not settings.mongodb_url.get_secret_value())]


def check_names() -> Iterator[Check]:
    """Variables that look like settings, and have no effect."""
    wrong = list(misspelled(DoctorSettings, os.environ))
    for variable, meant in wrong:
        yield failed("settings", f"{variable} is not a setting and has no effect", f"rename it to {meant}")
    if not wrong:
        yield passed("settings", "no variable is misspelled")


def check_keys(settings: DoctorSettings, data: Path) -> Check:
    """The key ring of the settings, or the one in the data directory."""
    text, place = _secret(settings.keys, data / "keys", "TOKENWIRE_KEYS")
    if text is None:
        return skipped("keys", f"TOKENWIRE_KEYS is not set, and there is no {data / 'keys'}")
    try:
        ring = KeyRing.parse(text)
    except (ValueError, OSError) as error:
        return failed("keys", f"{place}: {error}", "restore the key ring from a backup: records are encrypted with it")
    if ring.older:
        older = ", ".join(map(str, ring.older))
        return passed("keys", f"key {ring.current} is current; keys {older} are still accepted")
    return passed("keys", f"key {ring.current} is current")


def check_notifier_keys(settings: DoctorSettings, data: Path) -> Iterator[Check]:
    """The keys that open webhooks, where they are set here: only the notifier has them."""
    text, place = _secret(settings.notifier_private_keys, data / "notifier-key", "TOKENWIRE_NOTIFIER_PRIVATE_KEYS")
    if text is None:
        return
    try:
        count = len(private_keys(SecretStr(text)))
    except (ValueError, OSError) as error:
        yield failed("notifier keys", f"{place}: {error}", "restore them from a backup: pending webhooks need them")
    else:
        yield passed("notifier keys", f"{count} in use" if count > 1 else "one in use")


def _secret(given: SecretStr, kept: Path, name: str) -> tuple[str | None, str]:
    """The text of a setting, or of the file that `make run` keeps instead, and where it is from."""
    if given.get_secret_value():
        return given.get_secret_value(), name
    try:
        return kept.read_text(encoding="utf-8").strip(), str(kept)
    except FileNotFoundError:
        return None, str(kept)
    except (OSError, UnicodeDecodeError):
        return "", str(kept)


# MongoDB


async def check_mongodb(settings: DoctorSettings) -> AsyncIterator[Check]:
    """Reachable, a replica set, recent enough, writable, with all indexes, and with the same time as this machine."""
    url = settings.mongodb_url.get_secret_value()
    if not url:
        yield skipped("MongoDB", "TOKENWIRE_MONGODB_URL is not set; `make run` has one of its own")
        return
    mongo = Mongo(url, settings.mongodb_database)
    # Declares the indexes of all collections; its key ring is never used.
    Store.over(mongo, KeyRing({0: bytes(KEY_BYTES)}, 0), announce_nothing)
    await mongo.open(prepare=False)
    try:
        yield check_mongodb_version(await mongo.server_version())
        yield await _check_writable(mongo, settings.mongodb_database)
        yield check_indexes(await mongo.missing_indexes())
        yield check_clock(await mongo.time() - utc_now())
    except TemporarilyUnavailable as outage:
        yield failed("MongoDB", f"TOKENWIRE_MONGODB_URL: {outage.description}", "see docs/runbook.md, MongoDB")
    finally:
        await mongo.close()


def check_mongodb_version(version: str) -> Check:
    """Whether this version of MongoDB is one that the tests run with."""
    if _numbers(version) < OLDEST_MONGODB:
        return failed("MongoDB", f"version {version} is too old", f"upgrade it to {_text(OLDEST_MONGODB)} or later")
    return passed("MongoDB", f"version {version}, a replica set with a primary")


async def _check_writable(mongo: Mongo, database: str) -> Check:
    if await mongo.may_write():
        return passed("MongoDB rights", f"the user may write to {database}")
    return failed(
        "MongoDB rights",
        f"the user may not write to the database {database}",
        f"grant it readWrite on {database}, or run deploy.prepare_mongodb (docs/operations.md)",
    )


def check_indexes(missing: Sequence[str]) -> Check:
    """Whether the indexes of this release exist."""
    if not missing:
        return passed("indexes", "all exist")
    named = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
    return failed(
        "indexes",
        f"{len(missing)} are missing: {named}",
        "start a service, which makes them, or run deploy.prepare_mongodb if the users may not; on large collections "
        "it takes a while",
    )


def check_clock(ahead: timedelta) -> Check:
    """Whether the clock of MongoDB agrees with this machine's."""
    seconds = ahead.total_seconds()
    if abs(ahead) <= CLOCK_WITHIN:
        return passed("MongoDB clock", "it agrees with this machine's")
    return failed(
        "MongoDB clock",
        f"it is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this machine's",
        "synchronise both with NTP (`timedatectl set-ntp true`): lifetimes are counted by these clocks",
    )


# RabbitMQ


async def check_rabbitmq(settings: DoctorSettings) -> AsyncIterator[Check]:
    """Reachable, recent enough, with our queues, and taking messages from this user."""
    url = settings.amqp_url.get_secret_value()
    if not url:
        yield skipped("RabbitMQ", "TOKENWIRE_AMQP_URL is not set; `make run` has a bus of its own")
        return
    try:
        broker = await examine_broker(url)
    except BusUnavailable as reason:
        yield failed("RabbitMQ", f"TOKENWIRE_AMQP_URL: {reason}", "see docs/runbook.md, RabbitMQ")
        return
    yield check_rabbitmq_version(broker)
    yield check_queues(broker)
    yield check_publishing(broker)
    yield check_dead_letters(broker)


def check_rabbitmq_version(broker: Broker) -> Check:
    """Whether this version of RabbitMQ is one that the tests run with."""
    if _numbers(broker.version) < OLDEST_RABBITMQ:
        return failed(
            "RabbitMQ", f"version {broker.version} is too old", f"upgrade it to {_text(OLDEST_RABBITMQ)} or later"
        )
    return passed("RabbitMQ", f"version {broker.version}, virtual host {broker.vhost}")


def check_queues(broker: Broker) -> Check:
    """Whether every pool has its queues."""
    if not broker.missing:
        return passed("queues", "all exist")
    return failed(
        "queues",
        f"there are none for {', '.join(broker.missing)}",
        "start the services, which declare them, or import deploy/rabbitmq/definitions.json",
    )


def check_publishing(broker: Broker) -> Check:
    """Whether the broker takes messages from this user."""
    if not broker.refusal:
        return passed("RabbitMQ rights", "the user may publish")
    return failed(
        "RabbitMQ rights",
        broker.refusal,
        "import deploy/rabbitmq/definitions.json, which has the users' permissions; free disk and memory of the broker",
    )


def check_dead_letters(broker: Broker) -> Check:
    """Whether messages could not be handled."""
    if not broker.dead_letters:
        return passed("dead letters", "none")
    counted = ", ".join(f"{count} of {pool}" for pool, count in broker.dead_letters.items())
    return failed("dead letters", counted, "see why in the logs, then `tokenwire redrive <pool>`")


# This machine


def check_port(host: str, port: int) -> Check:
    """Whether the port is free, or taken by Tokenwire."""
    name, remedy = f"port {port}", "stop that program, or set TOKENWIRE_PORT (PORT= of make run)"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return failed(name, f"{host} cannot be listened on: {error.strerror}", "set TOKENWIRE_HOST or _PORT")
            at = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - compared, not bound
            ours, said = ask(f"http://{at}:{port}/healthz")
            if ours and '"status":"ok"' in said:
                return passed(name, "Tokenwire listens there")
            return failed(name, f"another program listens on {host}", remedy)
    return passed(name, f"free on {host}")


def check_disk(data: Path, *, is_needed: bool = True) -> Check:
    """Whether the data directory can be written to and has space. A container has none, unless one is needed."""
    if not is_needed and not data.exists():
        return skipped("disk", "no data is kept here; MongoDB is elsewhere")
    there = next((path for path in (data, *data.absolute().parents) if path.exists()), Path("/"))
    if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
        return failed("disk", f"{there} is not a directory that can be written to", "name another with --data (DATA=)")
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE:
        return failed("disk", f"{free / 1e9:.1f} GB are free in {there}", "free some space: MongoDB stops without any")
    return passed("disk", f"{free / 1e9:.0f} GB are free in {there}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("-")[0].split(".")[:2] if part.isdecimal())


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
