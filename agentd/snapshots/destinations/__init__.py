"""Where snapshots go: coderd, an object store, an HTTP server, a directory, a program of the operator's."""

from agentd.snapshots.destinations.by_url import Surroundings, from_url
from agentd.snapshots.destinations.coder import CoderDestination
from agentd.snapshots.destinations.destination import (
    Accepted,
    DeliveryError,
    Destination,
    RefusedError,
    RetryableError,
    UnsupportedError,
)

__all__ = [
    "Accepted",
    "CoderDestination",
    "DeliveryError",
    "Destination",
    "RefusedError",
    "RetryableError",
    "Surroundings",
    "UnsupportedError",
    "from_url",
]
