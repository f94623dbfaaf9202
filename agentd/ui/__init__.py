"""The web pages of the daemon and of the simulator: plain files, read from disk for each request.

All URLs in the files are relative, so that a proxy can serve a page under any path.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aiohttp import web

FOLDER: Final = Path(__file__).parent
HEADERS: Final = {
    # No inline script and no other origin. A string cannot become markup: output of hooks and agents is shown
    # as text.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def files(page: str) -> dict[str, tuple[str, str]]:
    """The files of `page` ("daemon" or "simulator"): URL path → file name and media type."""
    return {
        "/": (f"{page}.html", "text/html"),
        f"/{page}.js": (f"{page}.js", "text/javascript"),
        "/base.js": ("base.js", "text/javascript"),
        "/base.css": ("base.css", "text/css"),
        "/icon.svg": ("icon.svg", "image/svg+xml"),
    }


def routes(page: str) -> list[web.RouteDef]:
    """A route for each file of `page`."""
    return [web.get(path, _handler(name, media_type)) for path, (name, media_type) in files(page).items()]


def file_response(name: str, media_type: str) -> web.Response:
    """The content of the file `name`."""
    return web.Response(
        body=(FOLDER / name).read_bytes(), content_type=media_type, charset="utf-8", headers=HEADERS
    )


def _handler(name: str, media_type: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_request: web.Request) -> web.StreamResponse:
        return file_response(name, media_type)

    return handle
