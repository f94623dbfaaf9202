"""Who may ask on TCP: programs on this machine, this daemon's own page, and the proxies that were named.

Any page a user opens may send requests to 127.0.0.1, and under a name it has pointed there (DNS rebinding) may read the
answers; but the browser tells the truth in `Host`, `Origin` and `Sec-Fetch-Site`. On the unix socket, its mode is the guard.
"""

import re
from collections.abc import Collection
from typing import Final

from aiohttp import web

LOOPBACK_HOST: Final = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?", re.IGNORECASE)
OWN_HEADER: Final = "X-Agentd"
"""No form and no `<img>` can send it, and a script of another origin only after a preflight, which is refused."""

_FORM_TYPES: Final = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")


def refusal(request: web.Request, proxies: Collection[str]) -> str:
    """Why this request is not answered, in the words of its headers; empty when it may pass.

    `proxies` are further values of `Host`, in lower case: names under which a proxy in front serves this API.
    """
    if not _is_tcp(request):
        return ""
    host = request.headers.get("Host", "").lower()
    origin = request.headers.get("Origin")
    if LOOPBACK_HOST.fullmatch(host):
        own = {f"http://{host}"}
    elif host in proxies:
        # Whether the browser speaks TLS to the proxy cannot be seen from behind it.
        own = {f"http://{host}", f"https://{host}"}
    else:
        return f"Host {host}"
    if origin is not None and origin.lower() not in own:
        return f"Origin {origin}"
    site = request.headers.get("Sec-Fetch-Site", "none")
    if site not in ("none", "same-origin") and not _opens_a_page(request):
        return f"Sec-Fetch-Site {site}"
    if request.method not in ("GET", "HEAD") and _is_by_page(request) and not _is_meant(request):
        return f"a page's request without {OWN_HEADER} and without JSON"
    return ""


def _is_tcp(request: web.Request) -> bool:
    return request.transport is None or isinstance(request.transport.get_extra_info("sockname"), tuple)


def _opens_a_page(request: web.Request) -> bool:
    """Whether a link was followed, which shows the user a page and lets the one that had the link read nothing."""
    headers = request.headers
    return (
        request.method == "GET"
        and headers.get("Sec-Fetch-Mode") == "navigate"
        and headers.get("Sec-Fetch-Dest") == "document"
    )


def _is_by_page(request: web.Request) -> bool:
    headers = request.headers
    return "Sec-Fetch-Site" in headers or ("Origin" in headers and request.content_type in _FORM_TYPES)


def _is_meant(request: web.Request) -> bool:
    return OWN_HEADER in request.headers or request.content_type == "application/json"
