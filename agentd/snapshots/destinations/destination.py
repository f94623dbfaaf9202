"""What every place that takes snapshots has in common.

A destination makes one bounded try and says how it went; when to try again is the uploader's business.
"""

from typing import NamedTuple, Protocol

from agentd.errors import AgentdError
from agentd.snapshots.entry import SpoolEntry


class DeliveryError(AgentdError):
    """A destination did not take a snapshot. `status` is an HTTP status or exit code, where there was one."""

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after_s = retry_after_s


class RetryableError(DeliveryError):
    """It may work later. It may also have worked: delivering again is safe."""


class RefusedError(DeliveryError):
    """This snapshot will never be taken there."""


class UnsupportedError(DeliveryError):
    """The destination does not offer this at all."""


class Accepted(NamedTuple):
    """The destination has the snapshot. `detail` says what is worth knowing, usually nothing."""

    status: int | None = None
    detail: str = ""


class Destination(Protocol):
    """Something that takes snapshots. `name` is unique among the configured ones and holds no secret."""

    @property
    def name(self) -> str: ...

    @property
    def needs_task(self) -> bool:
        """Whether a snapshot without a task is none of its business."""
        ...

    async def deliver(self, entry: SpoolEntry, *, timeout_s: float) -> Accepted:
        """One try. Delivering the same entry again must be harmless. Raises a `DeliveryError`."""
        ...
