"""Log lines are single JSON objects without secrets."""

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from libs.logging import redact

ACCESS = "tw_at_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdEf"
HIDDEN = "[redacted]"


BEFORE = """
import asyncio, logging, structlog
from libs import logging as ours

ours.configure({level!r}, {json}, "tests")
log = structlog.get_logger("tests")
library = logging.getLogger("some.library")
ACCESS = {access!r}
"""


def output(code: str, level: str = "info", *, json: bool = True) -> str:
    """The output of a process that configures logging like this and runs this; logging is set up once per process."""
    script = BEFORE.format(level=level, json=json, access=ACCESS) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def lines(code: str, level: str = "info") -> list[dict[str, Any]]:
    return [json.loads(line) for line in output(code, level).splitlines()]


@pytest.mark.parametrize(
    "field",
    [
        "secret",
        "client_secret",
        "shared_secret",
        "password",
        "token",
        "access_token",
        "refresh_token",
        "old_refresh_token",
        "code",
        "auth_code",
        "authorization",
        "cookie",
        "key",
        "operator_key",
        "code_verifier",
        "sealed",
        "body",
    ],
)
def test_a_field_that_is_named_like_a_secret_is_taken_out(field: str) -> None:
    """A field with a secret's name is redacted, whatever its value, at any depth."""
    assert redact(None, "", {field: "harmless"}) == {field: HIDDEN}
    assert redact(None, "", {"request": {field: "harmless"}}) == {"request": {field: HIDDEN}}
    assert redact(None, "", {"requests": [{field: "harmless"}]}) == {"requests": [{field: HIDDEN}]}


@pytest.mark.parametrize(
    "field", ["event", "token_id", "grant_id", "client_id", "code_lifetime", "keys_read", "status", "error", "path"]
)
def test_a_field_that_is_named_otherwise_stays(field: str) -> None:
    """Other fields stay."""
    assert redact(None, "", {field: "value"}) == {field: "value"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param(ACCESS, f"tw_at_{HIDDEN}", id="access-token"),
        pytest.param(ACCESS.replace("tw_at_", "tw_rt_"), f"tw_rt_{HIDDEN}", id="refresh-token"),
        pytest.param(ACCESS.replace("tw_at_", "tw_ac_"), f"tw_ac_{HIDDEN}", id="code"),
        pytest.param(ACCESS.replace("tw_at_", "tw_ok_"), f"tw_ok_{HIDDEN}", id="operator-key"),
        pytest.param("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", f"whsec_{HIDDEN}", id="webhook-secret"),
        pytest.param(f"/orders?access_token={ACCESS}&x=1", f"/orders?access_token=tw_at_{HIDDEN}&x=1", id="in-a-url"),
        pytest.param(f"'{ACCESS}', '{ACCESS}'", f"'tw_at_{HIDDEN}', 'tw_at_{HIDDEN}'", id="twice"),
        pytest.param("amqp://token:s3cr3t@rabbitmq:5672/", f"amqp://{HIDDEN}@rabbitmq:5672/", id="url-with-password"),
        pytest.param("mongodb://u:p%40@a,b/?x=1", f"mongodb://{HIDDEN}@a,b/?x=1", id="url-of-several-hosts"),
        pytest.param(b"anything", HIDDEN, id="bytes"),
        pytest.param("http://127.0.0.1:8080/@home", "http://127.0.0.1:8080/@home", id="at-in-a-path"),
        pytest.param("tw_at_ is a prefix", "tw_at_ is a prefix", id="prefix-alone"),
        pytest.param(12, 12, id="number"),
        pytest.param(None, None, id="none"),
        pytest.param(True, True, id="boolean"),
    ],
)
def test_a_value_that_looks_like_a_secret_is_taken_out(value: object, shown: object) -> None:
    """A value with a secret's format is redacted under any name, in any text; similar ones stay."""
    assert redact(None, "", {"reason": value}) == {"reason": shown}
    assert redact(None, "", {"facts": {"reasons": [value]}}) == {"facts": {"reasons": [shown]}}


def test_a_line_is_one_json_object() -> None:
    """A line has event, fields, service, level and UTC time."""
    (line,) = lines("""log.info("token_issued", grant_id="g", scope="a b")""")
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "token_issued", "grant_id": "g", "scope": "a b", "service": "tests", "level": "info"}


def test_a_line_is_never_two_and_never_lost() -> None:
    """Line breaks are escaped, and values that JSON cannot represent become text."""
    forged, odd = lines(
        """
        log.info("refused", detail='a\\n{"event":"forged"}')
        log.info("odd", value=ValueError("odd"), kind=int)
        """
    )
    assert forged["detail"] == 'a\\n{"event":"forged"}'
    assert (odd["value"], odd["kind"]) == ("odd", "<class 'int'>")


def test_every_line_of_an_event_loop_is_written_in_order() -> None:
    """Lines buffered during a turn of the event loop keep their order, including the last turn's."""
    said = lines(
        """
        async def main():
            for turn in range(3):
                for number in range(4):
                    log.info("said", number=4 * turn + number)
                await asyncio.sleep(0)
            log.info("said", number=12)

        asyncio.run(main())
        log.info("said", number=13)
        """
    )
    assert [line["number"] for line in said] == list(range(14))


def test_a_traceback_holds_no_secret() -> None:
    """Exception texts are redacted, too."""
    (line,) = lines(
        """
        try:
            raise ValueError(f"cannot read {ACCESS}")
        except ValueError:
            log.exception("failed")
        """
    )
    assert line["exception"].endswith(f"ValueError: cannot read tw_at_{HIDDEN}")
    assert ACCESS not in json.dumps(line)


def test_access_lines_are_buffered_and_stay_in_order() -> None:
    """Access lines are buffered briefly; another line flushes them first."""
    said = output(
        """
        import os

        def request(number):
            ours.access(method="GET", path="/", status=200, ms=1.5, client="192.0.2.1", request_id=str(number))

        async def main():
            request(1)
            await asyncio.sleep(0)
            os.write(1, b"not yet\\n")
            await asyncio.sleep(5 * ours.BUFFERED_FOR)
            os.write(1, b"by now\\n")
            request(2)
            log.info("said")
            request(3)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            os.write(1, b"at once\\n")
            request(4)

        asyncio.run(main())
        """
    )
    words = [json.loads(line) if line.startswith("{") else line for line in said.splitlines()]
    told = [word if isinstance(word, str) else word.get("request_id", word["event"]) for word in words]
    assert told == ["not yet", "1", "by now", "2", "said", "3", "at once", "4"]


def test_an_access_line_holds_no_secret() -> None:
    """Access lines, which have a faster path, are redacted in the same way."""
    (line,) = lines(
        """
        path = f"/orders/{ACCESS}"
        ours.access(method="GET", path=path, status=200, ms=1.5, client="192.0.2.1", request_id="r")
        """
    )
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request",
        "service": "tests",
        "level": "info",
        "method": "GET",
        "path": f"/orders/tw_at_{HIDDEN}",
        "status": 200,
        "ms": 1.5,
        "client": "192.0.2.1",
        "request_id": "r",
    }


@pytest.mark.parametrize(
    ("level", "written"),
    [
        pytest.param("debug", ["debugged", "informed", "request", "warned"], id="debug"),
        pytest.param("info", ["informed", "request", "warned"], id="info"),
        pytest.param("warning", ["warned"], id="warning"),
        pytest.param("error", [], id="error"),
    ],
)
def test_lines_below_the_level_are_not_written(level: str, written: list[str]) -> None:
    """Lines below the configured level are not written, access lines included."""
    code = """
        log.debug("debugged")
        log.info("informed")
        ours.access(method="GET", path="/", status=200, ms=1, client="192.0.2.1", request_id="r")
        log.warning("warned")
        """
    assert [line["event"] for line in lines(code, level)] == written


def test_libraries_go_through_the_same_door() -> None:
    """Libraries' lines from `warning` on are formatted and redacted like ours."""
    warned, failed = lines(
        """
        library.info("chatter")
        library.warning("cannot reach %s", "amqp://token:s3cr3t@rabbitmq/")
        try:
            raise ConnectionError("mongodb://root:s3cr3t@db/ refused")
        except ConnectionError:
            library.exception("it failed")
        """
    )
    assert (warned["event"], warned["level"]) == ("library", "warning")
    assert warned["message"] == f"cannot reach amqp://{HIDDEN}@rabbitmq/"
    assert failed["error"] == f"ConnectionError('mongodb://{HIDDEN}@db/ refused')"


def test_the_console_form_hides_the_same() -> None:
    """The console format is redacted, too."""
    said = output(
        """
        log.error("failed", reason=ACCESS, client_secret="s3cr3t")
        ours.access(method="GET", path=f"/orders/{ACCESS}", status=200, ms=1, client="192.0.2.1", request_id="r")
        """,
        json=False,
    )
    assert said.count(f"tw_at_{HIDDEN}") == 2
    assert ACCESS not in said
    assert "s3cr3t" not in said


NASTY = {
    "escape": "a\x1b[2J\x1b]0;owned\x07b",
    "c1": "a\x9b31mb\x85c",
    "delete": "a\x7f\x08b",
    "lines": "a\n2026-01-01 [info] forged\r\nb",
    "separators": "a\u2028b\u2029c",
    "bidi": "a\u202egpj.exe\u2066b\u200f",
    "hidden": "a\u200b\u2060\ufeff\U000e0041b",
    "half": "a\udc80b",
}
"""Characters that a terminal interprets, hides, or cannot encode."""


def is_harmless(text: str) -> bool:
    """Whether every character except line ends is printable."""
    return all(character == "\n" or character.isprintable() for character in text)


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "console"])
@pytest.mark.parametrize("nasty", NASTY.values(), ids=list(NASTY))
def test_a17_terminal_control_characters_are_escaped(nasty: str, as_json: bool) -> None:
    """Such characters are escaped in fields, nested values, paths and libraries' messages."""
    code = f"""
        nasty = {nasty!r}
        log.info("one", field=nasty, nested={{nasty: [nasty, (nasty,)]}}, other=ValueError(nasty))
        ours.access(method="GET", path=nasty, status=404, ms=1.0, client="192.0.2.1", request_id="x" * 16)
        library.warning("message %s", nasty)
    """
    said = output(code, json=as_json)
    assert is_harmless(said), ascii(said)
    assert said.count("\n") == 3
    assert said.count("a\\\\" if as_json else "a\\") >= 5


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "console"])
def test_a17_a_traceback_forges_no_line(as_json: bool) -> None:
    """Console tracebacks are indented, and exception texts in them escaped, so that no line can be forged."""
    code = """
        try:
            raise ValueError("a\\x1b[2J\\n2026-01-01 [info] forged")
        except ValueError:
            log.exception("failed")
    """
    said = output(code, json=as_json)
    assert "\x1b" not in said
    assert not any(line.startswith("2026-01-01 [info] forged") for line in said.splitlines())
    assert "Traceback" in said


def test_a17_a_long_text_is_cut() -> None:
    """Long texts are cut, because 8 KiB paths would fill the disk."""
    (line,) = lines('log.info("one", field="x" * 100_000)')
    assert line["field"] == "x" * 2048 + "… (100000 characters)"
