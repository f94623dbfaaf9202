"""Creates the destination for a URL of `snapshots.destinations`, by its scheme."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
NAME_HASH_DIGITS: Final = 6
"""Enough to tell a few URLs apart, and too few to find a secret in a query by trying."""


def from_urls(urls: Sequence[str], context: DestinationContext) -> list[Destination]:
    """Create the destinations for `urls`, each with its own name. Raises `ConfigError` as `from_url`.

    URLs that differ only in parts that a name leaves out get the start of a hash of the URL as a suffix. All of
    them get it, so that a name does not depend on the order, and a receipt of one is never that of another.
    """
    plain = Counter(UrlTemplate(url, context.workspace_id).name for url in urls)
    return [
        from_url(url, context, name_suffix=_suffix(url))
        if plain[UrlTemplate(url, context.workspace_id).name] > 1
        else from_url(url, context)
        for url in urls
    ]


def _suffix(url: str) -> str:
    return f"#{hashlib.sha256(url.encode()).hexdigest()[:NAME_HASH_DIGITS]}"


def from_url(url: str, context: DestinationContext, *, name_suffix: str = "") -> Destination:
    """Create the destination for `url` without contacting it.

    Raises `ConfigError` for an unknown scheme, a relative path or a missing library.
    """
    template = UrlTemplate(url, context.workspace_id, name_suffix)
    create = SCHEMES.get(urlsplit(url).scheme)
    if create is None:
        raise ConfigError(
            f"snapshots.destinations: {template.name} has an unknown scheme",
            hint=f"use coder, {', '.join(f'{scheme}://' for scheme in SCHEMES)}",
        )
    return create(template, context)
