"""Fetches a stored snapshot: from a path, `file://`, `http(s)://`, `s3://`, `gs://` or `az://`."""

import asyncio
import http.client
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from yarl import URL

from agentd.errors import AgentdError
from agentd.http_client import client_session, failure, read_start
from agentd.proxy import proxy_of, request_options, tls_url
from agentd.snapshots.destinations import object_store
from agentd.snapshots.destinations.destination import RetryableError
from agentd.snapshots.destinations.directory import path_of
from agentd.snapshots.destinations.http import read_headers, without_secrets
from agentd.snapshots.destinations.url_template import UrlTemplate
from agentd.snapshots.reading import DOCUMENT_MAX_BYTES
from agentd.tls import aiohttp, client_context

TIMEOUT_S: Final = 30.0

# One byte more than the reader accepts, so that it detects a document that is too large.
_FETCH_MAX_BYTES: Final = DOCUMENT_MAX_BYTES + 1


class NotFetchedError(AgentdError):
    """The document cannot be fetched. The message names the URL and the reason."""


async def fetch(
    template: UrlTemplate, task_id: str, *, headers_file: Path | None = None, ca_file: Path | None = None
) -> bytes:
    """The document of `task_id` at `template`, at most `DOCUMENT_MAX_BYTES` and one byte.

    Raises `NotFetchedError`, and `ConfigError` for an unreadable CA file or a missing library.
    """
    if "://" not in template.url:
        return await asyncio.to_thread(_read, Path(template.url), template.url)
    name, url = template.name, template.expand(task_id)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            match urlsplit(url).scheme:
                case "file":
                    return await asyncio.to_thread(_read, path_of(url), name)
                case "http" | "https":
                    return await _get(url, name, headers_file, ca_file)
                case scheme if scheme in object_store.SCHEMES:
                    return await object_store.get(url, max_bytes=_FETCH_MAX_BYTES)
    except TimeoutError as exc:
        raise NotFetchedError(f"{name}: no answer within {TIMEOUT_S:g} s") from exc
    except OSError as exc:
        raise NotFetchedError(f"{name}: {failure(exc)}") from exc
    raise NotFetchedError(
        f"cannot read from {name}: unknown scheme",
        hint="use a path, file://, https://, s3://, gs:// or az://",
    )


def _read(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FETCH_MAX_BYTES)
    except OSError as exc:
        raise NotFetchedError(f"{name} cannot be read: {exc.strerror}") from exc


async def _get(url: str, name: str, headers_file: Path | None, ca_file: Path | None) -> bytes:
    try:
        headers = read_headers(headers_file)
    except RetryableError as exc:
        raise NotFetchedError(exc.message, hint=exc.hint) from exc
    proxy = proxy_of(url)
    tls = client_context(tls_url(url, proxy), ca_file)
    try:
        async with (
            client_session() as session,
            session.get(
                URL(url, encoded=True),
                # The headers are for that address only.
                allow_redirects=False,
                ssl=True if tls is None else tls,
                **request_options(proxy, headers),
            ) as response,
        ):
            if response.status != 200:
                raise NotFetchedError(f"{name}: {_reason(response.status)}")
            return await read_start(response.content.iter_any(), _FETCH_MAX_BYTES)
    except aiohttp.ClientHttpProxyError as exc:
        hint = proxy.login_hint if proxy is not None and exc.status == 407 else ""
        raise NotFetchedError(f"{name}: the proxy {proxy} answered {exc.status}", hint=hint) from exc
    except aiohttp.ClientError as exc:
        raise NotFetchedError(f"{name}: {failure(exc, mask=partial(without_secrets, headers))}") from exc


def _reason(status: int) -> str:
    # Without the server's own reason phrase, which could contain control characters.
    text = f"{status} {http.client.responses.get(status, '')}".rstrip()
    if 300 <= status < 400:
        return f"{text}: the server redirects; use the final address, redirects are not followed"
    if status in (401, 403):
        return f"{text}; snapshots.http_headers_file can hold an Authorization header"
    return text
