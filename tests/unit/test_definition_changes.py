"""The review of a changed definition: lines, plain words, and secrets that stay secret."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.apis import Api
from libs.encryption import KeyRing
from libs.masking import MASK
from libs.tyk.oas import read_oas
from services.console.definition_changes import client_changes, line_difference
from services.console.definition_drafts import Draft, Drafts, draft_of, edited
from services.console.definition_fields import WrongField, values_of
from services.console.definition_secrets import CHANGED, restored, shown_change, shown_text
from tests.builders import KEYS
from tests.unit.tyk_definitions import changed, definition

OAS = definition("orders-oas.json")
TYK = "x-tyk-api-gateway"
SETTINGS = f"{TYK}/server/authentication/securitySchemes/tykOAuth"
SECRET = f"{SETTINGS}/notifications/sharedSecret"
HEADERS = f"{TYK}/middleware/global/transformRequestHeaders"


def read(document: dict[str, Any]) -> Api:
    return read_oas(document, api_id="x", now=datetime(2026, 8, 1, tzinfo=UTC))


def sentences(path: str, value: Any) -> str:
    return " ".join(client_changes(read(OAS), read(changed(OAS, path, value))))


# Lines


def test_a_difference_has_the_changed_lines_and_a_few_around_them() -> None:
    """Equal lines further away are counted."""
    before = [f"line {number}" for number in range(40)]
    after = [*before[:20], "new", *before[21:]]
    lines = line_difference("\n".join(before), "\n".join(after))
    assert [(line.kind, line.text.strip()) for line in lines] == [
        ("gap", "17 equal lines"),
        *(("same", f"line {number}") for number in (17, 18, 19)),
        ("removed", "- line 20"),
        ("added", "+ new"),
        *(("same", f"line {number}") for number in (21, 22, 23)),
        ("gap", "16 equal lines"),
    ]
    assert line_difference("a", "a") == ()


LINES = st.lists(st.sampled_from("abc"), max_size=30)


@given(before=LINES, after=LINES)
def test_a_difference_leads_from_one_text_to_the_other(before: list[str], after: list[str]) -> None:
    """With its gaps filled, the removed and equal lines are the old text, the added and equal ones the new one."""
    old: list[str] = []
    new: list[str] = []
    for line in line_difference("\n".join(before), "\n".join(after)):
        if line.kind == "gap":
            number, at_old, at_new = int(line.text.split()[0]), len(old), len(new)
            assert before[at_old : at_old + number] == after[at_new : at_new + number]
            old += before[at_old : at_old + number]
            new += after[at_new : at_new + number]
        if line.kind in {"removed", "same"}:
            old.append(line.text[2:])
        if line.kind in {"added", "same"}:
            new.append(line.text[2:])
    if before != after:
        assert (old, new) == (before, after)


def test_a_difference_of_very_long_texts_is_counted_instead_of_searched() -> None:
    """The search takes a time that grows with the square of the length."""
    before = "\n".join(f"a{number}" for number in range(20_000))
    after = "\n".join(f"b{number}" for number in range(20_000))
    (line,) = line_difference(before, after)
    assert line.text == "20000 lines become 20000 other ones: too many to show each"


def test_a_difference_of_many_alike_lines_is_found_soon() -> None:
    """Brackets, which every object has, are no places to start from: with them, this took a minute."""
    old, new = [
        [line for number in range(first, first + 660) for line in ("{", str(number), "},")] for first in (0, 660)
    ]
    began = time.process_time()
    lines = line_difference("\n".join(old), "\n".join(new))
    assert time.process_time() - began < 5
    assert [line.text for line in lines if line.kind == "removed"].count("- 0") == 1


# Plain words


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        pytest.param(f"{TYK}/info/state/active", False, "The API is no longer served", id="inactive"),
        pytest.param(f"{TYK}/server/listenPath/value", "/x/", "must go to /x/; at /orders/", id="listen-path"),
        pytest.param(f"{TYK}/server/listenPath/strip", False, "gets the path with /orders/", id="strip"),
        pytest.param(
            f"{TYK}/upstream/url", "https://u.example/", "another upstream: https://u.example/", id="upstream"
        ),
        pytest.param(f"{SETTINGS}/refreshToken", False, "refresh_token is no longer offered", id="refresh"),
        pytest.param(f"{SETTINGS}/allowedAuthorizeTypes", ["token"], "authorization_code is no longer", id="codes"),
        pytest.param(f"{SETTINGS}/authLoginRedirect", "https://l.example/", "another login page", id="login"),
        pytest.param(f"{SETTINGS}/authLoginRedirect", "", "no login page", id="no-login"),
        pytest.param(f"{SETTINGS}/header/name", "X-T", "looked for in: header X-T", id="header"),
        pytest.param(f"{SETTINGS}/header/enabled", False, "nowhere: every call is refused", id="nowhere"),
        pytest.param(SECRET, "another", "shared secret of webhooks changes", id="secret"),
        pytest.param(f"{SETTINGS}/notifications", {}, "No webhooks are sent any more", id="no-webhooks"),
        pytest.param(
            "x-tokenwire",
            {"accessTokenLifetime": 60},
            "live 1\N{NO-BREAK SPACE}min instead of 1\N{NO-BREAK SPACE}h",
            id="lifetime",
        ),
        pytest.param("x-tokenwire", {"pkceRequired": True}, "of every client app need PKCE", id="pkce"),
        pytest.param("x-tokenwire", {"pkceRequired": False}, "refuses requests without a subject", id="subject"),
        pytest.param("x-tokenwire", {"refreshReuse": "strict"}, "revokes its grant at once", id="reuse"),
        pytest.param("x-tokenwire", {"scopes": ["extra"]}, "may ask for new scopes: extra", id="scope"),
        pytest.param(
            "components/securitySchemes/tykOAuth/flows",
            {"password": {"scopes": {"a": "A"}}},
            "no longer ask for the scopes b c read write orders other: tokens lose them",
            id="scopes-gone",
        ),
        pytest.param(
            "x-tokenwire", {"sharedSecretHeader": False}, "no longer carry X-Tyk-Shared-Secret", id="header-off"
        ),
        pytest.param(f"{TYK}/server/authentication/enabled", False, "Calls need no token any more", id="keyless"),
        pytest.param(
            f"{TYK}/server/authentication/stripAuthorizationData", False, "upstream gets the token", id="token"
        ),
        pytest.param(f"{TYK}/info/state/internal", True, "addresses, paths, rates or sizes", id="guards"),
        pytest.param("info/title", "Things", "", id="nothing"),
    ],
)
def test_what_clients_notice_is_said_in_plain_words(path: str, value: Any, sentence: str) -> None:
    """Each change that matters to client apps, callers or receivers has its sentence; others have none."""
    said = sentences(path, value)
    assert sentence in said
    assert bool(said) is bool(sentence)


# Secrets


def test_secrets_are_masked_and_put_back_where_the_mask_was_left() -> None:
    """What is shown has no secret; with the mask untouched, the definition is the same again."""
    document = changed(
        OAS, HEADERS, {"enabled": True, "add": [{"name": "A", "value": "sec1"}, {"name": "B", "value": "sec2"}]}
    )
    text = shown_text(document)
    assert not [secret for secret in ("s3cr3t", "sec1", "sec2") if secret in text]
    assert "https://app.example.test/hooks/oauth" in text
    assert restored(json.loads(text), document) == document


def test_headers_that_move_keep_their_own_values() -> None:
    """A removed or reordered header does not give its value to another one; a renamed one keeps the mask, which the
    import refuses.
    """
    one, two, three = ({"name": name, "value": f"sec-{name}"} for name in "ABC")
    document = changed(OAS, f"{HEADERS}/add", [one, two, three])

    def after(*headers: dict[str, str]) -> Any:
        back = restored(changed(OAS, f"{HEADERS}/add", list(headers)), document)
        return back[TYK]["middleware"]["global"]["transformRequestHeaders"]["add"]

    masked = {name: {"name": name, "value": MASK} for name in "ABCD"}
    assert after(masked["C"], masked["A"]) == [three, one]
    assert after({"name": "A", "value": "new"}, masked["B"]) == [{"name": "A", "value": "new"}, two]
    assert after(masked["D"], masked["B"]) == [masked["D"], two]


def test_which_of_two_headers_of_one_name_was_removed_is_not_guessed() -> None:
    """The mask stays, so that the import asks for the value."""
    twice = changed(OAS, f"{HEADERS}/add", [{"name": "A", "value": "sec1"}, {"name": "A", "value": "sec2"}])
    once = changed(OAS, f"{HEADERS}/add", [{"name": "A", "value": MASK}])
    assert restored(once, twice) == once


def test_a_very_long_list_is_matched_by_place_alone() -> None:
    """Comparing every item with every other one would take a time that grows with the square of their number."""
    headers = [{"name": f"H{number}", "value": f"sec{number}"} for number in range(5000)]
    document = {"add": headers, "numbers": [1] * 100_000}
    text = json.loads(shown_text(document))
    assert restored(text, document) == document
    shorter = {**text, "add": text["add"][1:], "numbers": [1] * 99_999}
    assert restored(shorter, document) == shorter


@given(st.sampled_from([True, False, 0, 1, 1.0, None, "", "x"]))
def test_values_that_are_alike_to_python_are_told_apart(value: Any) -> None:
    """`1` is not `true`: an edit from one to the other is kept."""
    document = {"a": True, "b": 1, "c": [True, 1]}
    edit = {"a": value, "b": value, "c": [value, value]}
    assert json.dumps(restored(edit, document)) == json.dumps(edit)


def test_a_difference_says_that_a_secret_changes_and_shows_neither() -> None:
    """Both sides are masked; the new one is marked."""
    old, new = shown_change(OAS, changed(OAS, SECRET, "another"))
    assert "s3cr3t" not in old + new
    assert "another" not in new
    assert CHANGED in new
    assert shown_change(OAS, OAS)[0] == shown_change(OAS, OAS)[1]


# Drafts


def test_a_draft_is_read_only_in_the_session_that_got_it() -> None:
    """It is encrypted, since it has secrets, and of no use elsewhere."""
    drafts, draft = Drafts(KeyRing.parse(KEYS)), draft_of(OAS, '"3"')
    sealed = drafts.sealed(draft, "session")
    assert "s3cr3t" not in sealed
    assert drafts.opened(sealed, "session") == draft
    for wrong, session in ((sealed, "other"), ("", "session"), ("1.AAAA", "session"), (sealed[:-4], "session")):
        with pytest.raises(WrongField):
            drafts.opened(wrong, session)


def test_text_and_form_are_changed_at_once() -> None:
    """What was edited in the text stays, and what was edited in the form is written into it, secrets included."""
    draft = draft_of(OAS)
    text = shown_text(changed(OAS, "info/title", "By text"))
    form = values_of(OAS) | {"form": "1", "text": text, "name": "By form", "shared_secret": "typed"}
    document = edited(draft, form).document
    assert document == changed(
        changed(changed(OAS, "info/title", "By text"), f"{TYK}/info/name", "By form"), SECRET, "typed"
    )


def test_a_value_that_was_changed_in_the_text_alone_is_not_set_back_by_the_form() -> None:
    """The form only writes what was changed in it."""
    text = shown_text(changed(OAS, f"{TYK}/info/name", "By text"))
    form = values_of(OAS) | {"form": "1", "text": text}
    assert edited(draft_of(OAS), form).document == changed(OAS, f"{TYK}/info/name", "By text")


def test_a_draft_without_text_and_form_stays_as_it_is() -> None:
    """As it comes back from the review."""
    assert edited(draft_of(OAS, '"1"'), {"csrf": "x"}) == Draft(definition=draft_of(OAS).definition, version='"1"')
