"""Delivery receipts: one per destination, and one for the snapshot, which a command prints and exits by."""

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple


class DestinationOutcome(enum.StrEnum):
    """The delivery state of a snapshot at one destination."""

    DELIVERED = "delivered"
    PENDING = "pending"
    """Not delivered yet: there was no attempt, or the last one failed and can be retried."""
    REFUSED = "refused"
    """The destination will never accept this snapshot (wrong task, invalid). The next snapshot is tried."""
    UNSUPPORTED = "unsupported"
    """The destination does not have this feature: a Coder release without Tasks."""


class SnapshotOutcome(enum.StrEnum):
    """The delivery state of a snapshot at all destinations. `agentd stop` exits 75 for `PENDING` and 0 otherwise."""

    DELIVERED = "delivered"
    PENDING = "pending"
    NOTHING = "nothing"


class DestinationReceipt(NamedTuple):
    """The receipt of one destination.

    `status` is the HTTP status or exit code of the last attempt, `at` the time it ended (RFC 3339).
    """

    name: str
    outcome: DestinationOutcome
    status: int | None = None
    detail: str = ""
    attempts: int = 0
    at: str = ""


class Receipt(NamedTuple):
    """The receipt of the newest snapshot. `bytes`, `messages`, `sha256` describe the payload: 0 and "" if there is none."""

    outcome: SnapshotOutcome
    bytes: int = 0
    messages: int = 0
    sha256: str = ""
    destinations: tuple[DestinationReceipt, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {**self._asdict(), "destinations": [receipt._asdict() for receipt in self.destinations]}


def combined_outcome(destinations: Sequence[DestinationReceipt]) -> SnapshotOutcome:
    """Combine the outcomes of all destinations.

    `PENDING` if any supporting destination has not accepted the snapshot. This includes a refusal: the user does not
    find the conversation there, and the operator has something to correct. An unsupported destination does not count,
    otherwise every stop on a Coder release without Tasks would look like a loss.
    """
    outcomes = {receipt.outcome for receipt in destinations}
    if outcomes & {DestinationOutcome.PENDING, DestinationOutcome.REFUSED}:
        return SnapshotOutcome.PENDING
    return SnapshotOutcome.DELIVERED if DestinationOutcome.DELIVERED in outcomes else SnapshotOutcome.NOTHING
