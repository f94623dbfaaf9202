"""Where snapshots go: coderd, an object store, an HTTP server, a directory, a program of the operator's.

All but coderd are in `by_url`, which is imported where a URL is configured.
"""

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
    "UnsupportedError",
]
