"""The interface of a destination: it makes one attempt and reports the result.

The uploader decides about retries, and cancels an attempt at its time limit.
"""

from typing import NamedTuple, Protocol

from agentd.errors import AgentdError
from agentd.snapshots.entry import SpoolEntry


class DeliveryError(AgentdError):
    """A destination did not accept a snapshot. `status` is the HTTP status or the exit code, None without one."""

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after_s = retry_after_s


class RetryableError(DeliveryError):
    """A later attempt may succeed, also after an operator has corrected something, such as a password.

    This one may have succeeded too: a second delivery is safe. At a stop the snapshot stays in the spool (exit code 75).
    """


class NotAuthorizedError(RetryableError):
    """The credentials are refused, and they cannot change while agentd runs. They may be accepted again in minutes."""


class RejectedError(DeliveryError):
    """The destination will never accept this snapshot, whatever an operator changes. It is tried again after a restart."""


class UnsupportedError(DeliveryError):
    """The destination does not support snapshots."""


class Accepted(NamedTuple):
    """The destination has the snapshot. `detail` is information for the receipt, usually ""."""

    status: int | None = None
    detail: str = ""


class Destination(Protocol):
    """Accepts snapshots. `name` is unique among the configured destinations and contains no secret."""

    @property
    def name(self) -> str: ...

    @property
    def needs_task(self) -> bool:
        """True if this destination needs a task id."""
        ...

    async def deliver(self, entry: SpoolEntry) -> Accepted:
        """Make one attempt. It must be idempotent, and may be cancelled. Raises a `DeliveryError`."""
        ...
