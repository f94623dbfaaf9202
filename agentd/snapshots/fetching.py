"""Fetches a document from where a destination has put it: a path, `file://`, `http(s)://`, `s3://`, `gs://`, `az://`."""

import asyncio
import http.client
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from yarl import URL

from agentd.errors import AgentdError
from agentd.http_client import client_session
from agentd.snapshots.destinations import object_store
from agentd.snapshots.destinations.http import read_headers, without_secrets
from agentd.snapshots.destinations.place import Place
from agentd.snapshots.reading import DOCUMENT_MAX_BYTES
from agentd.tls import aiohttp, client_context

TIMEOUT_S: Final = 30.0


class NotFetchedError(AgentdError):
    """The document could not be had. The message says where and why."""


async def fetch(
    place: Place, task_id: str, *, headers_file: Path | None = None, ca_file: Path | None = None
) -> bytes:
    """The bytes at `place`, which may be a destination with placeholders: then those of `task_id`.

    At most one byte more than `DOCUMENT_MAX_BYTES`, so that the reader sees that it was too much. Raises
    `NotFetchedError`, and `ConfigError` for a file that cannot be used or a library that is missing.
    """
    if "://" not in place.url:
        return await _read(Path(place.url), place.url)
    url = place.of_task(task_id)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            match urlsplit(url).scheme:
                case "file":
                    return await _read(Path(unquote(urlsplit(url).path)), place.name)
                case "http" | "https":
                    return await _get(url, place.name, headers_file, ca_file)
                case scheme if scheme in object_store.SCHEMES:
                    return await object_store.get(url, max_bytes=DOCUMENT_MAX_BYTES)
    except TimeoutError as error:
        raise NotFetchedError(f"{place.name}: no answer within {TIMEOUT_S:g} s") from error
    except OSError as error:
        raise NotFetchedError(f"{place.name}: {_plain(error)}") from error
    raise NotFetchedError(
        f"{place.name} is of a kind agentd cannot read from",
        hint="use a path, file://, https://, s3://, gs:// or az://",
    )


async def _read(path: Path, name: str) -> bytes:
    def read() -> bytes:
        with path.open("rb") as file:
            return file.read(DOCUMENT_MAX_BYTES + 1)

    try:
        return await asyncio.to_thread(read)
    except OSError as error:
        raise NotFetchedError(f"{name} cannot be read: {error.strerror}") from error


async def _get(url: str, name: str, headers_file: Path | None, ca_file: Path | None) -> bytes:
    headers = read_headers(headers_file)
    tls = client_context(url, ca_file)
    body = b""
    try:
        async with (
            client_session(trust_env=True) as session,
            session.get(
                URL(url, encoded=True),
                headers=headers,
                # The headers are for that address only.
                allow_redirects=False,
                ssl=True if tls is None else tls,
            ) as response,
        ):
            if response.status != 200:
                raise NotFetchedError(f"{name}: {_why(response)}")
            while len(body) <= DOCUMENT_MAX_BYTES and (chunk := await response.content.readany()):
                body += chunk
    except aiohttp.ClientError as error:
        raise NotFetchedError(f"{name}: {without_secrets(headers, _plain(error))}") from error
    return body[: DOCUMENT_MAX_BYTES + 1]


def _why(response: aiohttp.ClientResponse) -> str:
    # The server's own words for it would reach a terminal.
    said = f"{response.status} {http.client.responses.get(response.status, '')}".rstrip()
    if 300 <= response.status < 400:
        return f"{said}: it redirects; name the final address, redirects are not followed"
    if response.status in (401, 403):
        return f"{said}; snapshots.http_headers_file can hold an Authorization header"
    return said


def _plain(error: Exception) -> str:
    """What went wrong, in one line that does nothing to a terminal; a server may have had a say in it."""
    text = str(error) or type(error).__name__
    return "".join(char if char.isprintable() else " " for char in text)
