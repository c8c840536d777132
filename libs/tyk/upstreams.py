"""The upstreams of an API: none, one, or several that get its calls in turn."""

import re

from libs.tyk.import_notes import ImportNotes
from libs.tyk.part import Part
from libs.tyk.references import NOTHING_REPLACES, is_reference

MOST = 100
"""Upstreams of one API, counted with their weights."""
_LOOP = "it is another API of the same gateway, and there are no calls between APIs here"
_HTTP2 = "HTTP/2 without TLS (gRPC) is not offered"
_NOT_CALLED = {
    "tyk": _LOOP,
    **dict.fromkeys(("h2c", "grpc", "grpcs"), _HTTP2),
}
"""Schemes of upstreams that Tyk calls and the gateway here does not, and why."""
_SCHEME = re.compile(r"([A-Za-z0-9]+)://")
_SKIPPED = "so it gets no calls"
WITHOUT_UPSTREAM = "so calls through the gateway are answered with 502; tokens and /verify work"
"""The end of the warning about an API whose calls cannot be forwarded."""


def classic_upstreams(proxy: Part, notes: ImportNotes) -> tuple[str, ...]:
    """`proxy.target_url`, or with load balancing `target_list`; one empty URL if calls cannot be forwarded.

    Raises InvalidDefinition.
    """
    if not proxy.flag("enable_load_balancing") or not proxy.texts("target_list"):
        return (_upstream(proxy, "target_url", notes, WITHOUT_UPSTREAM),)
    targets = proxy.texts("target_list")
    _require_few(proxy, "target_list", len(targets))
    list_path = proxy.path_of("target_list")
    parts = [Part({f"[{i}]": _with_scheme(url)}, list_path) for i, url in enumerate(targets)]
    urls = tuple(_upstream(part, f"[{i}]", notes, _SKIPPED) for i, part in enumerate(parts))
    if proxy.has("target_url"):
        # A wrong one would be noticed only when load balancing is switched off.
        _upstream(proxy, "target_url", ImportNotes(), _SKIPPED)
    return _called(urls, list_path, notes)


def oas_upstreams(upstream: Part, notes: ImportNotes) -> tuple[str, ...]:
    """`upstream.url`, or with load balancing its targets, each as often as its weight; one empty URL if calls cannot be
    forwarded.

    Raises InvalidDefinition.
    """
    balancing = upstream.part("loadBalancing")
    targets = balancing.parts("targets") if balancing.flag("enabled") else ()
    weights = [target.whole_number("weight", MOST) if target.has("weight") else 1 for target in targets]
    if not any(weights):
        if not upstream.has("url"):
            raise upstream.wrong("url", "an absolute http or https URL is expected")
        return (_upstream(upstream, "url", notes, WITHOUT_UPSTREAM),)
    _require_few(balancing, "targets", sum(weights))
    parts = [Part({"url": _with_scheme(target.text("url"))}, target.path) for target in targets]
    urls = [_upstream(part, "url", notes, _SKIPPED) for part in parts]
    # Not one target after the other, but all of them in each turn, so that a heavy one does not get its calls at once.
    turns = range(max(weights))
    in_turn = (url for turn in turns for url, weight in zip(urls, weights, strict=True) if turn < weight)
    return _called(tuple(in_turn), balancing.path_of("targets"), notes)


def _with_scheme(url: str) -> str:
    """A target may be a host and a port alone; it is then called over http, as in Tyk."""
    return url if not url or "://" in url or is_reference(url) else f"http://{url}"


def _upstream(part: Part, key: str, notes: ImportNotes, consequence: str) -> str:
    """The URL in this member; empty, with a warning, if Tyk takes it and calls cannot be forwarded there."""
    reason = _why_not_called(part.text(key))
    if reason is None:
        return part.required_upstream_url(key)
    notes.unused(part.path_of(key), f"{reason}, {consequence}")
    return ""


def _why_not_called(url: str) -> str | None:
    if not url:
        return "there is no upstream"
    if is_reference(url) and not url.lower().startswith("file:"):  # that one is more likely meant as a file's URL
        return NOTHING_REPLACES
    scheme = _SCHEME.match(url)
    return _NOT_CALLED.get(scheme[1].lower()) if scheme else None


def _called(urls: tuple[str, ...], path: str, notes: ImportNotes) -> tuple[str, ...]:
    """Those to which calls can be forwarded; one empty URL, with a warning, if there are none."""
    if not any(urls):
        notes.unused(path, f"none of them can be called, {WITHOUT_UPSTREAM}")
    return tuple(filter(None, urls)) or ("",)


def _require_few(part: Part, key: str, count: int) -> None:
    if count > MOST:
        raise part.wrong(key, f"at most {MOST} targets are expected, counted with their weights")
