"""The destination a URL of `snapshots.destinations` names."""

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
from agentd.snapshots.destinations.place import Place
from agentd.tls import aiohttp, client_context


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What destinations need beside their URL.

    `folder` takes short-lived files (the spool's own will do), `workspace_id` is asked at each delivery since it may
    be learnt late, `method`, `headers_file` and `ca_file` are for https destinations.
    """

    session: aiohttp.ClientSession
    folder: Path
    environ: Mapping[str, str]
    workspace_id: Callable[[], str] = str
    method: Method = "PUT"
    headers_file: Path | None = None
    ca_file: Path | None = None


def from_url(url: str, around: Surroundings) -> Destination:
    """The destination that `url` names; nothing is contacted yet.

    Raises `ConfigError` for a scheme nobody serves, a relative path, or a missing extra.
    """
    parts = urlsplit(url)
    place = Place(url, around.workspace_id)
    match parts.scheme:
        case "http" | "https":
            return HttpDestination(
                place,
                session=around.session,
                method=around.method,
                headers_file=around.headers_file,
                tls=client_context(url, around.ca_file),
            )
        case "file" | "exec" if parts.netloc or len(parts.path) < 2:
            raise ConfigError(
                f"snapshots.destinations: {url} names no absolute path", hint=f"write {parts.scheme}:///path"
            )
        case "file":
            return DirectoryDestination(place)
        case "exec":
            return CommandDestination(url, folder=around.folder, environ=around.environ)
        case scheme if scheme in SCHEMES:
            return ObjectStoreDestination(place)
        case _:
            raise ConfigError(
                f"snapshots.destinations: {place.name} is of a kind agentd does not know",
                hint=f"use coder, https://, file://, exec://, {', '.join(f'{one}://' for one in SCHEMES)}",
            )
