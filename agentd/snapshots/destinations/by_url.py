"""Creates the destination for a URL of `snapshots.destinations`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agentd.errors import ConfigError
from agentd.snapshots.destinations.command import CommandDestination
from agentd.snapshots.destinations.destination import Destination
from agentd.snapshots.destinations.directory import DirectoryDestination
from agentd.snapshots.destinations.http import HttpDestination, Method
from agentd.snapshots.destinations.object_store import SCHEMES, ObjectStoreDestination
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


def from_url(url: str, context: DestinationContext) -> Destination:
    """Create the destination for `url` without contacting it.

    Raises `ConfigError` for an unknown scheme, a relative path or a missing library.
    """
    parts = urlsplit(url)
    template = UrlTemplate(url, context.workspace_id)
    match parts.scheme:
        case "http" | "https":
            return HttpDestination(
                template,
                session=context.session,
                method=context.method,
                headers_file=context.headers_file,
                tls=client_context(url, context.ca_file),
            )
        case "file" | "exec" if parts.netloc or len(parts.path) < 2:
            raise ConfigError(
                f"snapshots.destinations: {url} has no absolute path", hint=f"write {parts.scheme}:///path"
            )
        case "file":
            return DirectoryDestination(template)
        case "exec":
            return CommandDestination(url, folder=context.folder, environ=context.environ)
        case scheme if scheme in SCHEMES:
            return ObjectStoreDestination(template)
        case _:
            raise ConfigError(
                f"snapshots.destinations: {template.name} has an unknown scheme",
                hint=f"use coder, https://, file://, exec://, {', '.join(f'{one}://' for one in SCHEMES)}",
            )
