"""The upstreams of an API: one, or several that get its calls in turn."""

from libs.tyk.part import Part

MOST = 100
"""Upstreams of one API, counted with their weights."""


def classic_upstreams(proxy: Part) -> tuple[str, ...]:
    """`proxy.target_url`, or with load balancing `target_list`. Raises InvalidDefinition."""
    if not proxy.flag("enable_load_balancing") or not proxy.texts("target_list"):
        return (proxy.required_upstream_url("target_url"),)
    targets = proxy.texts("target_list")
    _require_few(proxy, "target_list", len(targets))
    list_path = proxy.path_of("target_list")
    urls = tuple(Part({f"[{i}]": url}, list_path).required_upstream_url(f"[{i}]") for i, url in enumerate(targets))
    proxy.upstream_url("target_url")  # a wrong one would be noticed only when load balancing is switched off
    return urls


def oas_upstreams(upstream: Part) -> tuple[str, ...]:
    """`upstream.url`, or with load balancing its targets, each as often as its weight. Raises InvalidDefinition."""
    balancing = upstream.part("loadBalancing")
    targets = balancing.parts("targets") if balancing.flag("enabled") else ()
    weights = [target.whole_number("weight", MOST) if target.has("weight") else 1 for target in targets]
    if not any(weights):
        return (upstream.required_upstream_url("url"),)
    _require_few(balancing, "targets", sum(weights))
    urls = [target.required_upstream_url("url") for target in targets]
    # Not one target after the other, but all of them in each turn, so that a heavy one does not get its calls at once.
    turns = range(max(weights))
    return tuple(url for turn in turns for url, weight in zip(urls, weights, strict=True) if turn < weight)


def _require_few(part: Part, key: str, count: int) -> None:
    if count > MOST:
        raise part.wrong(key, f"at most {MOST} targets are expected, counted with their weights")
