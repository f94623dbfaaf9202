"""Destinations of snapshots: coderd, an object store, an HTTP server, a directory, a program.

`by_url` has all destinations except coderd. It is imported only if a URL is configured.
"""

from agentd.snapshots.destinations.coder import CoderDestination
from agentd.snapshots.destinations.destination import (
    Accepted,
    DeliveryError,
    Destination,
    RejectedError,
    RetryableError,
    UnsupportedError,
)

__all__ = [
    "Accepted",
    "CoderDestination",
    "DeliveryError",
    "Destination",
    "RejectedError",
    "RetryableError",
    "UnsupportedError",
]
