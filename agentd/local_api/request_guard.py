"""Decides which TCP requests to accept: from local programs, the daemon's page, and the configured proxies.

Any page that a user opens can send requests to 127.0.0.1. With DNS rebinding it can also read the responses.
A browser reports the origin of such a request in `Host`, `Origin` and `Sec-Fetch-Site`. The unix socket is
protected by its mode.
"""

import re
from collections.abc import Collection
from typing import Final

from aiohttp import web

from agentd.config.formats import LOOPBACK

OWN_HEADER: Final = "X-Agentd"
"""A form and an `<img>` cannot send it. A script of another origin needs a preflight, which is refused."""

_LOOPBACK_HOST: Final = re.compile(
    f"({'|'.join(re.escape(f'[{host}]' if ':' in host else host) for host in LOOPBACK)})(:[0-9]+)?",
    re.IGNORECASE,
)
_FORM_TYPES: Final = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")


def refusal_reason(request: web.Request, proxies: Collection[str]) -> str:
    """The header for which this request is refused, with its value; "" if it is accepted.

    `proxies` are further accepted values of `Host`, in lower case.
    """
    # The address of a TCP socket is a tuple, that of a unix socket a string.
    if request.transport and not isinstance(request.transport.get_extra_info("sockname"), tuple):
        return ""
    host = request.headers.get("Host", "").lower()
    origin = request.headers.get("Origin")
    if _LOOPBACK_HOST.fullmatch(host):
        own = {f"http://{host}"}
    elif host in proxies:
        # agentd cannot see whether the browser uses TLS to the proxy.
        own = {f"http://{host}", f"https://{host}"}
    else:
        return f"Host {host}"
    if origin is not None and origin.lower() not in own:
        return f"Origin {origin}"
    site = request.headers.get("Sec-Fetch-Site", "none")
    if site not in ("none", "same-origin") and not _is_page_navigation(request):
        return f"Sec-Fetch-Site {site}"
    if request.method not in ("GET", "HEAD") and _is_from_page(request) and not _is_from_script(request):
        return f"a page's request without {OWN_HEADER} and without JSON"
    return ""


def _is_page_navigation(request: web.Request) -> bool:
    """Whether the user followed a link. The page with the link cannot read the response."""
    headers = request.headers
    return (
        request.method == "GET"
        and headers.get("Sec-Fetch-Mode") == "navigate"
        and headers.get("Sec-Fetch-Dest") == "document"
    )


def _is_from_page(request: web.Request) -> bool:
    headers = request.headers
    return "Sec-Fetch-Site" in headers or ("Origin" in headers and request.content_type in _FORM_TYPES)


def _is_from_script(request: web.Request) -> bool:
    return OWN_HEADER in request.headers or request.content_type == "application/json"
