"""The router: finds the handler of a path in time linear in the path's length, and bounds the length of paths.

aiohttp's own router looks up every prefix of the path, so its time is quadratic in the number of segments: one request
with a long path would hold up every other request of the process. This router uses public API of aiohttp only.
"""

import re
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.web_urldispatcher import MatchInfoError, UrlMappingMatchInfo

MAX_PATH = 8 * 1024
"""Characters of a path as it was sent, without its query. Longer paths are refused with 414."""
MAX_SEGMENTS = 256
"""Slashes and backslashes in a path, percent-encoded ones included. More are refused with 400."""
MAX_ESCAPES = 1024
"""Percent signs in a path; each costs decoding time. More are refused with 400."""
_UNCLEAR_PERCENT = re.compile(r"%(?:25|(?![0-9A-Fa-f]{2}))")
"""A percent sign that is itself encoded, or that starts no valid escape: a second decoding would still find it."""
_ENCODED_SEPARATOR = re.compile(r"%(?:25)*(?:2[Ff]|5[Cc])")
"""A slash or backslash that is percent-encoded, once or several times."""
_SUFFIXED = re.compile(r"/\{(?P<name>\w+):\(\?s:\.\+\)\}(?P<suffix>/[^{}]+)")
"""A route pattern that ends with fixed text after a variable of any length, such as `/{api_ref}/oauth/token`."""


class PathTooLong(web.HTTPRequestURITooLong):
    """414: the path has more than MAX_PATH characters."""

    def __init__(self) -> None:
        super().__init__(reason=f"the path is over {MAX_PATH} characters; shorten it")


class TooManySegments(web.HTTPBadRequest):
    """400: the path has too many segments or percent-escapes."""

    def __init__(self, limit: int = MAX_SEGMENTS, what: str = "segments") -> None:
        super().__init__(reason=f"the path has over {limit} {what}; send fewer")


def check_path(path: str) -> None:
    """Raise PathTooLong or TooManySegments if the path, as it was sent, exceeds a limit."""
    if len(path) <= MAX_SEGMENTS:
        return
    if len(path) > MAX_PATH:
        raise PathTooLong
    if _separators(path) > MAX_SEGMENTS:
        raise TooManySegments
    if "%" in path:
        if path.count("%") > MAX_ESCAPES:
            raise TooManySegments(MAX_ESCAPES, "percent-escapes")
        if len(_UNCLEAR_PERCENT.findall(path)) > MAX_SEGMENTS:
            raise TooManySegments(MAX_SEGMENTS, "percent signs that are encoded or begin no escape")


def _check_expectation(request: web.Request) -> None:
    """Raise HTTPExpectationFailed for any expectation but 100-continue (RFC 9110 §10.1.1 allows 417)."""
    expected = request.headers.get("Expect")
    if expected is not None and request.version >= HttpVersion11 and expected.lower() != "100-continue":
        raise web.HTTPExpectationFailed(reason="Expect may only say 100-continue")


def _separators(path: str) -> int:
    """Number of separators as counted by a server that decodes the path and treats backslashes as slashes."""
    plain = path.count("/") + path.count("\\")
    return plain + (len(_ENCODED_SEPARATOR.findall(path)) if "%" in path else 0)


class _Unrouted(MatchInfoError):
    """No route matches, or the path is refused."""

    @property
    def expect_handler(self) -> Callable[[web.Request], Awaitable[None]]:
        """Do nothing about `Expect`: aiohttp would reject an unknown expectation itself, as plain text."""
        return _ignore


async def _ignore(_: web.Request) -> None:
    """Do nothing."""


class _SuffixedResource(web.DynamicResource):
    """`/{api_ref}/oauth/token`: matched by its suffix, because a regular expression would try every position."""

    def __init__(self, path: str, name: str, suffix: str) -> None:
        super().__init__(path)
        self._variable = name
        self._suffix = suffix
        self._by_method: dict[str, web.ResourceRoute] = {}

    def register_route(self, route: web.ResourceRoute) -> None:
        """Add a route for one method, or for any method (`*`)."""
        super().register_route(route)
        self._by_method[route.method] = route

    async def resolve(self, request: web.Request) -> tuple[UrlMappingMatchInfo | None, set[str]]:
        """Match the path and method; without a match, the methods that this path has."""
        path, suffix, routes = request.rel_url.path_safe, self._suffix, self._by_method
        variable = path[1 : -len(suffix)]
        # Without a variable: the listen path is `/`.
        if not path.endswith(suffix) or not (variable or path == suffix):
            return None, set()
        route = routes.get(request.method) or routes.get(hdrs.METH_ANY)
        if route is None:
            return None, set(routes)
        # `path_safe` leaves these two encoded, so that a separator in a segment is not mistaken for a real one.
        return UrlMappingMatchInfo({self._variable: variable.replace("%2F", "/").replace("%25", "%")}, route), set()


class Router(web.UrlDispatcher):
    """aiohttp's router with a different search: it looks up at most as many prefixes as the longest route has."""

    def __init__(self) -> None:
        super().__init__()
        self._index: dict[str, list[web.AbstractResource]] = {}
        """Resources by the fixed part of their path before any variable, in the order of registration."""
        self._depth = 0
        """Segments of the longest key of the index."""

    def add_resource(self, path: str, *, name: str | None = None) -> web.Resource:
        """Return the resource for this path; the last one added is reused if its path is the same."""
        suffixed = _SUFFIXED.fullmatch(path)
        existing = list(self.resources())
        if suffixed is None or (existing and existing[-1].raw_match(path)):
            return super().add_resource(path, name=name)
        resource = _SuffixedResource(path, suffixed["name"], suffixed["suffix"])
        self.register_resource(resource)
        return resource

    def index_resource(self, resource: web.AbstractResource) -> None:
        """Index the resource by the fixed part of its path, up to the segment with the first variable."""
        super().index_resource(resource)
        key = resource.canonical
        if "{" in key:
            key = key.partition("{")[0].rpartition("/")[0]
        key = key.rstrip("/") or "/"
        self._index.setdefault(key, []).append(resource)
        self._depth = max(self._depth, key.count("/"))

    async def resolve(self, request: web.Request) -> UrlMappingMatchInfo:
        """Find the route of the request, the longest fixed prefix first; otherwise 404, 405, 414, 400 or 417."""
        url = request.rel_url
        # A path of at most MAX_SEGMENTS characters is within every limit.
        if len(url.raw_path) > MAX_SEGMENTS or hdrs.EXPECT in request.headers:
            try:
                check_path(url.raw_path)
                _check_expectation(request)
            except web.HTTPException as refusal:
                return _Unrouted(refusal)
        path = url.path_safe
        allowed: set[str] = set()
        prefix = path
        if prefix not in self._index:
            # No key is longer than this, so longer prefixes need not be looked up.
            prefix = "/".join(path.split("/", self._depth + 1)[: self._depth + 1])
        while prefix:
            for resource in self._index.get(prefix, ()):
                match, methods = await resource.resolve(request)
                if match is not None:
                    return match
                allowed |= methods
            if prefix == "/":
                break
            prefix = prefix.rpartition("/")[0] or "/"
        return _Unrouted(web.HTTPMethodNotAllowed(request.method, allowed) if allowed else web.HTTPNotFound())


def routed_application(**options: Any) -> web.Application:
    """Create an application that uses Router."""
    with warnings.catch_warnings():
        # The argument is deprecated, but aiohttp offers no other way to set the router.
        warnings.filterwarnings("ignore", "router argument is deprecated", DeprecationWarning)
        return web.Application(router=Router(), **options)
