"""The stylesheet, the scripts and the icon. Their URLs contain a digest of the content, so they are cached forever."""

import hashlib
from pathlib import Path

from aiohttp import web

HERE = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PREFIX = "/static"


class StaticFiles:
    """All files of `static/`, in memory."""

    def __init__(self) -> None:
        self._files = {path.name: path.read_bytes() for path in sorted(HERE.iterdir()) if path.suffix in _TYPES}
        # One digest of all: a script imports another by its plain name, which must change with that script's content.
        self._digest = hashlib.sha256(b"\0".join(self._files.values())).hexdigest()[:16]

    def url(self, name: str) -> str:
        """The URL of a file, below the console's path. Raises KeyError if there is none of this name."""
        if name not in self._files:
            raise KeyError(name)
        return f"{PREFIX}/{self._digest}/{name}"

    async def serve(self, request: web.Request) -> web.Response:
        """GET …/static/{digest}/{name}."""
        name = request.match_info["name"]
        if name not in self._files:
            raise web.HTTPNotFound
        current = request.match_info["digest"] == self._digest
        return web.Response(
            body=self._files[name],
            content_type=_TYPES[Path(name).suffix],
            charset="utf-8",
            headers={"Cache-Control": "public, max-age=31536000, immutable" if current else "no-store"},
        )
