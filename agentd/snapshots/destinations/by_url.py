"""Creates the destination for a URL of `snapshots.destinations`, by its scheme."""

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from agentd.errors import ConfigError
from agentd.snapshots.destinations.command import CommandDestination
from agentd.snapshots.destinations.destination import Destination
from agentd.snapshots.destinations.directory import DirectoryDestination
from agentd.snapshots.destinations.http import HttpDestination
from agentd.snapshots.destinations.object_store import SCHEMES as OBJECT_STORES
from agentd.snapshots.destinations.object_store import ObjectStoreDestination
from agentd.snapshots.destinations.url_template import DestinationContext, UrlTemplate

SCHEMES: Final[Mapping[str, Callable[[UrlTemplate, DestinationContext], Destination]]] = {
    "https": HttpDestination,
    "http": HttpDestination,
    "file": DirectoryDestination,
    "exec": CommandDestination,
    **dict.fromkeys(OBJECT_STORES, ObjectStoreDestination),
}
"""The scheme of a URL in `snapshots.destinations` → the class of its destination."""


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
