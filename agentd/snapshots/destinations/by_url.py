"""Creates the destination for a URL of `snapshots.destinations`, by its scheme."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agentd.errors import ConfigError
from agentd.snapshots.destinations.command import CommandDestination
from agentd.snapshots.destinations.destination import Destination
from agentd.snapshots.destinations.directory import DirectoryDestination
from agentd.snapshots.destinations.http import HttpDestination, Method
from agentd.snapshots.destinations.object_store import SCHEMES as OBJECT_STORES
from agentd.snapshots.destinations.object_store import ObjectStoreDestination
from agentd.snapshots.destinations.url_template import UrlTemplate
from agentd.tls import aiohttp, client_context


@dataclass(frozen=True, slots=True)
class DestinationContext:
    """What destinations need in addition to their URL.

    `folder` is for temporary files. `workspace_id` is called at each delivery, because agentd may learn the
    id late. `method`, `headers_file` and `ca_file` are for https destinations.
    """

    session: aiohttp.ClientSession
    folder: Path
    environ: Mapping[str, str]
    workspace_id: Callable[[], str] = str
    method: Method = "PUT"
    headers_file: Path | None = None
    ca_file: Path | None = None


def _http(template: UrlTemplate, context: DestinationContext) -> Destination:
    return HttpDestination(
        template,
        session=context.session,
        method=context.method,
        headers_file=context.headers_file,
        tls=client_context(template.url, context.ca_file),
    )


def _directory(template: UrlTemplate, _context: DestinationContext) -> Destination:
    _require_absolute_path(template.url)
    return DirectoryDestination(template)


def _command(template: UrlTemplate, context: DestinationContext) -> Destination:
    _require_absolute_path(template.url)
    return CommandDestination(template.url, folder=context.folder, environ=context.environ)


def _object_store(template: UrlTemplate, _context: DestinationContext) -> Destination:
    return ObjectStoreDestination(template)


SCHEMES: Final[Mapping[str, Callable[[UrlTemplate, DestinationContext], Destination]]] = {
    "https": _http,
    "http": _http,
    "file": _directory,
    "exec": _command,
    **dict.fromkeys(OBJECT_STORES, _object_store),
}
"""The scheme of a URL in `snapshots.destinations` → what creates its destination."""


def from_url(url: str, context: DestinationContext) -> Destination:
    """Create the destination for `url` without contacting it.

    Raises `ConfigError` for an unknown scheme, a relative path or a missing library.
    """
    template = UrlTemplate(url, context.workspace_id)
    create = SCHEMES.get(urlsplit(url).scheme)
    if create is None:
        raise ConfigError(
            f"snapshots.destinations: {template.name} has an unknown scheme",
            hint=f"use coder, {', '.join(f'{scheme}://' for scheme in SCHEMES)}",
        )
    return create(template, context)


def _require_absolute_path(url: str) -> None:
    parts = urlsplit(url)
    if parts.netloc or len(parts.path) < 2:
        raise ConfigError(
            f"snapshots.destinations: {url} has no absolute path", hint=f"write {parts.scheme}:///path"
        )
