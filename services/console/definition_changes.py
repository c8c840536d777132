"""What a new definition changes: the lines that differ, and in plain words what clients notice."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from contracts.apis import Api, OAuthSettings, RefreshReuse, TokenLocation
from services.console.rendering import duration

_CONTEXT = 3
"""Equal lines that are shown around a difference."""
_LONGEST = 4000
"""Lines in which differences are looked for; between the first and the last one that differs."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a difference; `kind` is `added`, `removed`, `same`, or `gap` for lines that are left out."""

    kind: str
    text: str


def line_difference(before: str, after: str) -> Sequence[Line]:
    """The lines that differ, with a few equal ones around them; empty if the texts are equal."""
    if before == after:
        return ()
    old, new = before.splitlines(), after.splitlines()
    start = _equal_at_the_start(old, new)
    end = min(_equal_at_the_start(old[::-1], new[::-1]), len(old) - start, len(new) - start)
    head, tail = old[max(0, start - _CONTEXT) : start], old[len(old) - end : len(old) - end + _CONTEXT]
    middle = list(_middle(old[start : len(old) - end], new[start : len(new) - end]))
    return [
        *_gap(start - len(head)),
        *(Line("same", f"  {text}") for text in head),
        *middle,
        *(Line("same", f"  {text}") for text in tail),
        *_gap(end - len(tail)),
    ]


def _equal_at_the_start(old: Sequence[str], new: Sequence[str]) -> int:
    pairs = zip(old, new, strict=False)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), min(len(old), len(new)))


def _middle(old: Sequence[str], new: Sequence[str]) -> Iterator[Line]:
    if len(old) + len(new) > _LONGEST:
        yield Line("gap", f"{len(old)} lines become {len(new)} other ones: too many to show each")
        return
    # Without autojunk, brackets as every object has them make it a hundred times slower.
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=True)
    for tag, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if tag == "equal":
            yield from _equal(old[old_from:old_to])
        else:
            yield from (Line("removed", f"- {text}") for text in old[old_from:old_to])
            yield from (Line("added", f"+ {text}") for text in new[new_from:new_to])


def _equal(lines: Sequence[str]) -> Iterator[Line]:
    """Equal lines between two differences."""
    hidden = len(lines) - 2 * _CONTEXT
    shown = lines if hidden <= 1 else lines[:_CONTEXT]
    yield from (Line("same", f"  {text}") for text in shown)
    if hidden > 1:
        yield from _gap(hidden)
        yield from (Line("same", f"  {text}") for text in lines[-_CONTEXT:])


def _gap(number: int) -> Iterator[Line]:
    if number > 0:
        yield Line("gap", f"{number} equal {'line' if number == 1 else 'lines'}")


def client_changes(before: Api, after: Api) -> Sequence[str]:
    """Sentences for people about what client apps, callers and receivers of webhooks notice; empty if nothing."""
    return [*_reach(before, after), *_tokens(before, after), *_calls(before, after)]


def _reach(before: Api, after: Api) -> Iterator[str]:
    if before.active and not after.active:
        yield "The API is no longer served: calls and token requests are refused until it is active again."
    if after.active and not before.active:
        yield "The API is served again."
    if before.listen_path != after.listen_path:
        yield (
            f"Calls and token requests must go to {after.listen_path}; at {before.listen_path} this API no longer "
            "responds. Client apps have to be changed."
        )
    if before.upstream_url != after.upstream_url:
        yield f"Calls go to another upstream: {after.upstream_url or 'none, so they get 502'}"
    if before.further_upstream_urls != after.further_upstream_urls:
        yield "The upstreams among which calls are distributed change."
    if before.strip_listen_path != after.strip_listen_path:
        yield f"The upstream gets the path {'without' if after.strip_listen_path else 'with'} {after.listen_path}"


def _tokens(before: Api, after: Api) -> Iterator[str]:
    if before.oauth and after.oauth:
        yield from _oauth(before.oauth, after.oauth)
        return
    if after.oauth:
        yield "The API issues tokens: client apps can be registered, and their calls need a token."
    if before.oauth:
        yield "The API no longer issues tokens: token requests are refused."
    if not (after.oauth or after.auth_token) and (before.oauth or before.auth_token):
        yield "Calls need no token any more: anybody may call the API."


def _oauth(before: OAuthSettings, after: OAuthSettings) -> Iterator[str]:
    yield from _grant_types(before, after)
    yield from _lifetimes(before, after)
    if before.pkce_required != after.pkce_required:
        yield (
            "Authorization requests of every client app need PKCE; those without a code_challenge are refused."
            if after.pkce_required
            else "Client apps with a secret may leave PKCE out."
        )
    if before.refresh_reuse != after.refresh_reuse:
        yield (
            "A refresh token that is used again revokes its grant at once, also if a response was lost."
            if after.refresh_reuse is RefreshReuse.STRICT
            else "A refresh token may be used once more within ten seconds, if the response was lost."
        )
    if before.anonymous_grants != after.anonymous_grants:
        yield (
            "authorize-client issues codes also without a subject."
            if after.anonymous_grants
            else "authorize-client refuses requests without a subject: the identity server must name the user."
        )
    if before.login_url != after.login_url:
        yield (
            f"Users are sent to another login page: {after.login_url}"
            if after.login_url
            else "There is no login page: authorization requests by browser are refused."
        )
    yield from _scopes(before, after)
    yield from _webhooks(before, after)


def _grant_types(before: OAuthSettings, after: OAuthSettings) -> Iterator[str]:
    for grant in before.grant_types:
        if grant not in after.grant_types:
            yield f"The grant type {grant} is no longer offered: token requests with it are refused."
    for grant in after.grant_types:
        if grant not in before.grant_types:
            yield f"The grant type {grant} is offered."


def _lifetimes(before: OAuthSettings, after: OAuthSettings) -> Iterator[str]:
    compared: Sequence[tuple[str, timedelta, timedelta]] = (
        ("Access tokens", before.access_token_lifetime, after.access_token_lifetime),
        ("Unused refresh tokens", before.refresh_token_lifetime, after.refresh_token_lifetime),
        ("Grants", before.grant_lifetime, after.grant_lifetime),
        ("Authorization codes", before.code_lifetime, after.code_lifetime),
    )
    changed = [each for each in compared if each[1] != each[2]]
    for what, old, new in changed:
        yield f"{what} live {duration(new)} instead of {duration(old)}, from the next one issued."


def _scopes(before: OAuthSettings, after: OAuthSettings) -> Iterator[str]:
    if gone := [scope for scope in before.scopes if scope not in after.scopes]:
        yield f"Client apps may no longer ask for the scopes {' '.join(gone)}: tokens lose them at the next refresh."
    if new := [scope for scope in after.scopes if scope not in before.scopes]:
        yield f"Client apps may ask for new scopes: {' '.join(new)}"


def _webhooks(before: OAuthSettings, after: OAuthSettings) -> Iterator[str]:
    old, new = before.notifications, after.notifications
    if old is None or new is None:
        if old is not new:
            yield f"Webhooks go to {new.on_key_change_url}" if new else "No webhooks are sent any more."
        return
    if old.on_key_change_url != new.on_key_change_url:
        yield f"Webhooks go to another URL: {new.on_key_change_url}"
    if old.shared_secret != new.shared_secret:
        yield "The shared secret of webhooks changes: the receiver must expect the new one at the same time."
    if old.shared_secret_header != new.shared_secret_header:
        kept = "carry" if new.shared_secret_header else "no longer carry"
        yield f"Webhooks {kept} X-Tyk-Shared-Secret, and the signature that is made with it."


def _calls(before: Api, after: Api) -> Iterator[str]:
    if before.token_location != after.token_location and (after.oauth or after.auth_token):
        yield f"The token of a call is looked for in: {token_places(after.token_location)}"
    if before.strip_authorization_data != after.strip_authorization_data:
        yield f"The upstream {'no longer gets' if after.strip_authorization_data else 'gets'} the token."
    compared = (
        ("versions", before.versioning, after.versioning),
        ("headers for the upstream", before.request_headers, after.request_headers),
        ("headers removed before the upstream", before.removed_request_headers, after.removed_request_headers),
        ("method override headers", before.method_override, after.method_override),
        ("rules for scripts of other origins (CORS)", before.cors, after.cors),
        ("rules for addresses, paths, rates or sizes", before.guards, after.guards),
    )
    if changed := [name for name, old, new in compared if old != new]:
        yield f"Other rules for calls change: {', '.join(changed)}. See the difference."


def token_places(location: TokenLocation) -> str:
    """Where the gateway looks for the token of a call."""
    named = (("header", location.header), ("query", location.query), ("cookie", location.cookie))
    return ", ".join(f"{place} {name}" for place, name in named if name) or "nowhere: every call is refused"
