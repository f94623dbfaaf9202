"""What became of a snapshot: one receipt per destination, and the one that a command prints and exits by."""

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple


class DestinationOutcome(enum.StrEnum):
    """What became of a snapshot at one destination."""

    DELIVERED = "delivered"
    PENDING = "pending"
    """Not yet: the last try failed in a way that another may not, or there was no time for one."""
    REFUSED = "refused"
    """The destination will never take this one (wrong task, invalid). The next snapshot is tried again."""
    UNSUPPORTED = "unsupported"
    """The destination does not offer this at all: a Coder release without Tasks."""


class SnapshotOutcome(enum.StrEnum):
    """What became of a snapshot altogether; `agentd stop` exits 75 for `PENDING` and 0 otherwise."""

    DELIVERED = "delivered"
    PENDING = "pending"
    NOTHING = "nothing"


class DestinationReceipt(NamedTuple):
    """One destination's. `status` is the HTTP status or exit code of the last try, `at` when it ended (RFC 3339)."""

    name: str
    outcome: DestinationOutcome
    status: int | None = None
    detail: str = ""
    attempts: int = 0
    at: str = ""

    def as_json(self) -> dict[str, Any]:
        return self._asdict()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "DestinationReceipt":
        """Raises `ValueError`, `TypeError` or `KeyError` when `value` is no receipt."""
        return cls(**{**value, "outcome": DestinationOutcome(value["outcome"])})


class Receipt(NamedTuple):
    """The newest snapshot's. `bytes`, `messages` and `sha256` describe the payload; 0 and "" when there is none."""

    outcome: SnapshotOutcome
    bytes: int = 0
    messages: int = 0
    sha256: str = ""
    destinations: tuple[DestinationReceipt, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {**self._asdict(), "destinations": [receipt.as_json() for receipt in self.destinations]}


def combined_outcome(destinations: Sequence[DestinationReceipt]) -> SnapshotOutcome:
    """One word for all destinations of a snapshot.

    `PENDING` as soon as one that could have it has it not: also a refusal, because then the user will not find the
    conversation there and the operator has something to correct. An unsupported destination does not count: on a
    Coder release without Tasks every stop would otherwise look like a loss.
    """
    outcomes = {receipt.outcome for receipt in destinations}
    if outcomes & {DestinationOutcome.PENDING, DestinationOutcome.REFUSED}:
        return SnapshotOutcome.PENDING
    return SnapshotOutcome.DELIVERED if DestinationOutcome.DELIVERED in outcomes else SnapshotOutcome.NOTHING
