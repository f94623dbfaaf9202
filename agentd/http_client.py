"""The HTTP client session of agentd, and the readers that every client of a peer shares."""

import asyncio
import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

from agentd import __version__, log
from agentd.masking import excerpt
from agentd.tls import aiohttp

USER_AGENT: Final = f"agentd/{__version__}"
RETRY_AFTER_MAX_S: Final = 300.0
SHARE_S: Final = 0.01
PIECE_BYTES: Final = 4 * 1024
"""The worst 4 KiB that was measured, empty objects in a list of messages, takes 4 to 8 ms."""
_FAILURE_MAX_CHARS: Final = 300


def client_session() -> aiohttp.ClientSession:
    """A session without cookies, which the caller closes. Each call sets its own deadline, TLS context and proxy.

    aiohttp does not read the proxy variables: `proxy.proxy_of` does, by Go's rules.
    """
    return aiohttp.ClientSession(
        headers={"User-Agent": USER_AGENT},
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),
    )


class LoopShare:
    """Lets other tasks run during work on what a peer sends: `pause` after each small part of it.

    A peer that sends faster than agentd works never lets a read wait, so a loop over its bytes would not end its turn.
    """

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def pause(self) -> None:
        """Give the other tasks a turn, if this one has worked for `SHARE_S`."""
        if time.perf_counter() - self._since >= SHARE_S:
            await asyncio.sleep(0)
            self._since = time.perf_counter()

    async def pieces(self, chunk: bytes) -> AsyncIterator[bytes]:
        """`chunk` in parts of at most `PIECE_BYTES`, with a pause before each."""
        for at in range(0, len(chunk), PIECE_BYTES):
            await self.pause()
            yield chunk[at : at + PIECE_BYTES]


async def read_start(chunks: AsyncIterable[bytes], max_bytes: int, *, into: bytearray | None = None) -> bytes:
    """Read a body up to `max_bytes` and ignore the rest. Ask for one byte more to detect a longer body.

    `into` receives the bytes as they arrive, for callers that use a body even if its connection breaks.
    """
    body = bytearray() if into is None else into
    share = LoopShare()
    async for chunk in chunks:
        await share.pause()
        body += chunk[: max_bytes - len(body)]
        if len(body) >= max_bytes:
            break
    return bytes(body)


def json_object(text: bytes | str) -> dict[str, Any]:
    """The JSON object in `text`, {} if it is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def one_line(text: str, max_chars: int) -> str:
    """The start of a peer's text on one line, masked, without control characters and lone surrogates."""
    start = excerpt(text, 4 * max_chars)
    printable = "".join(char if char.isprintable() else " " for char in start)
    return " ".join(printable.split())[:max_chars]


def failure(exc: BaseException, *, mask: Callable[[str], str] = log.masked) -> str:
    """A transport's error on one line, masked: aiohttp and h11 quote the server, up to the whole body."""
    return one_line(mask(str(exc)), _FAILURE_MAX_CHARS) or type(exc).__name__


def retry_after_s(headers: Mapping[str, str], *, now_unix_s: float) -> float | None:
    """Seconds of `Retry-After` (RFC 9110, 10.2.3), 0 to `RETRY_AFTER_MAX_S`; None without a valid one.

    A date is compared with the `Date` of the same response, because the local clock may be wrong, and with
    `now_unix_s` if there is none. `headers` looks up names without regard to case.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_MAX_S)
    until_unix_s = http_date_unix_s(text)
    if until_unix_s is None:
        return None
    sent_unix_s = http_date_unix_s(headers.get("date", ""))
    wait_s = until_unix_s - (now_unix_s if sent_unix_s is None else sent_unix_s)
    return min(max(wait_s, 0.0), RETRY_AFTER_MAX_S)


def http_date_unix_s(text: str) -> float | None:
    """The Unix time of an HTTP date, None if it is not one. A date without a time zone is UTC."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
