"""`https://…`: any server that takes a PUT or POST of JSON; headers, usually an authorization, from a file."""

import asyncio
import re
import ssl
from pathlib import Path
from typing import Final, Literal

from yarl import URL

from agentd.snapshots.destinations.destination import Accepted, RefusedError, RetryableError
from agentd.snapshots.destinations.place import Place
from agentd.snapshots.entry import SpoolEntry
from agentd.tls import aiohttp

Method = Literal["PUT", "POST"]

# Worth another try: credentials may be renewed in the headers file, the rest passes by itself.
_PASSING: Final = frozenset({401, 403, 407, 408, 423, 425, 429})
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)")
_HEADERS_MAX_BYTES: Final = 64 * 1024
_EXCERPT_MAX_BYTES: Final = 512


class HttpDestination:
    """Sends the payload to a URL. 2xx is taken, 4xx is refused but for a few, everything else is tried again.

    `headers_file` has one `Name: value` a line and is read at each try, so that credentials can be renewed under us.
    Redirects are not followed: those headers are for the configured address only.
    """

    needs_task = False

    def __init__(
        self,
        place: Place,
        *,
        session: aiohttp.ClientSession,
        method: Method = "PUT",
        headers_file: Path | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._place = place
        self.name = place.name
        self._session = session
        self._method = method
        self._headers_file = headers_file
        self._tls: ssl.SSLContext | bool = True if tls is None else tls

    async def deliver(self, entry: SpoolEntry, *, timeout_s: float) -> Accepted:
        headers = {"Content-Type": "application/json", **read_headers(self._headers_file)}
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    self._method,
                    URL(self._place.of(entry), encoded=True),
                    data=entry.payload,
                    headers=headers,
                    allow_redirects=False,
                    ssl=self._tls,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                ) as response,
            ):
                status = response.status
                if 200 <= status < 300:
                    return Accepted(status)
                excerpt = (await response.content.read(_EXCERPT_MAX_BYTES)).decode("utf-8", "replace")
        except TimeoutError as error:
            raise RetryableError(f"no answer within {timeout_s:.1f}s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise RetryableError(without_secrets(headers, str(error) or type(error).__name__)) from error
        said = without_secrets(headers, f"{status} {' '.join(excerpt.split())}".rstrip())
        if status in _PASSING or status >= 500:
            raise RetryableError(said, status=status)
        if 300 <= status < 400:
            raise RefusedError(
                f"{status}: it redirects",
                status=status,
                hint="name the final address; redirects are not followed",
            )
        raise RefusedError(said, status=status, hint="check the address in snapshots.destinations")


def read_headers(path: Path | None) -> dict[str, str]:
    """The headers in the file, one `Name: value` a line, `#` for a remark. Raises `RetryableError`: it may be mended."""
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            text = file.read(_HEADERS_MAX_BYTES).decode("ascii", "replace")
    except OSError as error:
        raise RetryableError(
            f"headers file {path} cannot be read: {error.strerror}",
            hint="agentd's user must be able to read it",
        ) from error
    headers = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _HEADER.fullmatch(line.rstrip())
        if match is None:
            raise RetryableError(f"headers file {path}: line {number} is not `Name: value`")
        headers[match[1]] = match[2]
    return headers


def without_secrets(headers: dict[str, str], text: str) -> str:
    """`text` without what the headers file holds: a server may echo a request."""
    for name, value in headers.items():
        if name != "Content-Type" and len(value) >= 6:
            for secret in {value, value.rpartition(" ")[2]}:
                text = text.replace(secret, "[hidden]") if len(secret) >= 6 else text
    return text
