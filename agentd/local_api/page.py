"""The daemon's own page: three static files over the local API's other routes.

Imported only when `local_api.listen` is set; nothing is kept in memory, each file is read when it is asked for.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aiohttp import web

FOLDER: Final = Path(__file__).parent.parent / "ui"
FILES: Final = {
    "/": ("daemon.html", "text/html"),
    "/daemon.js": ("daemon.js", "text/javascript"),
    "/base.js": ("base.js", "text/javascript"),
    "/base.css": ("base.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS: Final = {
    # No inline script, no other origin, and no string ever becomes markup: what hooks and agents say is text.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def routes() -> list[web.RouteDef]:
    """`/` and what it loads, each by a relative URL: a proxy may serve them under any path."""
    return [web.get(path, _file(name, kind)) for path, (name, kind) in FILES.items()]


def _file(name: str, kind: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_request: web.Request) -> web.StreamResponse:
        content = (FOLDER / name).read_bytes()
        return web.Response(body=content, content_type=kind, charset="utf-8", headers=HEADERS)

    return handle
