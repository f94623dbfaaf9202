"""Two pages as plain files, the daemon's and the simulator's, and how both are served.

Imported only where there is a page; nothing is kept in memory, each file is read when it is asked for. All URLs in them
are relative, so that a proxy may serve them under any path.
"""

from pathlib import Path
from typing import Final

from aiohttp import web

FOLDER: Final = Path(__file__).parent
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


def files(page: str) -> dict[str, tuple[str, str]]:
    """File name and media type of everything `page` ("daemon" or "simulator") consists of, by path."""
    return {
        "/": (f"{page}.html", "text/html"),
        f"/{page}.js": (f"{page}.js", "text/javascript"),
        "/base.js": ("base.js", "text/javascript"),
        "/base.css": ("base.css", "text/css"),
        "/icon.svg": ("icon.svg", "image/svg+xml"),
    }


def answer(name: str, kind: str) -> web.Response:
    """The file `name`, as `files` lists it."""
    return web.Response(
        body=(FOLDER / name).read_bytes(), content_type=kind, charset="utf-8", headers=HEADERS
    )
