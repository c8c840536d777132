"""`python -m services backup > file` copies the database to a file, `python -m services restore < file` back."""

import argparse
import sys
from collections.abc import Callable

from pydantic import SecretStr

from libs import logging
from libs.settings import Settings, load
from libs.store.backup import BackupFailed, Summary, back_up, restore
from libs.version import VERSION


class BackupSettings(Settings):
    """Where MongoDB is; the commands need no other setting."""

    amqp_url: SecretStr = SecretStr("")
    keys: SecretStr = SecretStr("")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to `python -m services`."""
    commands.add_parser(
        "backup",
        help="write a backup of the database to standard output",
        description="Write the state of the whole database at one moment to standard output. The services go on. The "
        "backup is useless without the key ring, and as confidential as both.",
    )
    commands.add_parser(
        "restore",
        help="restore a backup from standard input into an empty database",
        description="Read a backup from standard input and write it to the database, which must be empty. Start the "
        "services afterwards.",
    )


def run_backup(_: argparse.Namespace) -> int:
    """Write the archive. Returns 0; raises BackupFailed, and WrongSetting."""
    if sys.stdout.isatty():
        raise BackupFailed("standard output is a terminal; redirect it to a file")
    return _run("backed up", lambda url, database: back_up(url, database, sys.stdout.buffer, VERSION))


def run_restore(_: argparse.Namespace) -> int:
    """Read the archive. Returns 0; raises BackupFailed, and WrongSetting."""
    return _run("restored", lambda url, database: restore(url, database, sys.stdin.buffer))


def _run(done: str, work: Callable[[str, str], Summary]) -> int:
    settings = load(BackupSettings)
    url = settings.mongodb_url.get_secret_value()
    logging.configure("critical", False, "tokenwire")
    summary = work(url, settings.mongodb_database)
    count = sum(summary.documents.values())
    sys.stderr.write(
        f"{done}: {count} documents of {len(summary.documents)} collections, as of {summary.at:%Y-%m-%dT%H:%M:%S}Z\n"
    )
    return 0
