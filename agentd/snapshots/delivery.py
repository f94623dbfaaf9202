"""Gets the newest snapshot to every destination: as it settles while the daemon runs, and against a deadline at stop.

Each destination has its own uploader, receipt and pace; none waits for another.
"""

import asyncio
from collections.abc import Sequence
from typing import Literal

from agentd.clock import Clock
from agentd.metrics import Registry
from agentd.snapshots.destinations import Destination
from agentd.snapshots.receipts import Receipt, SnapshotOutcome, combined_outcome
from agentd.snapshots.spool import Spool
from agentd.snapshots.uploader import DestinationUploader

Upload = Literal["settle", "stop"]


class Delivery:
    """All uploaders. `upload` is the policy: `settle` sends what is offered, `stop` leaves it to the flush."""

    def __init__(
        self,
        *,
        spool: Spool,
        destinations: Sequence[Destination],
        upload: Upload,
        clock: Clock,
        metrics: Registry,
    ) -> None:
        deliveries = metrics.counter(
            "agentd_snapshot_deliveries_total", "Tries to deliver a snapshot.", "destination", "outcome"
        )
        self._spool = spool
        self._upload = upload
        self._uploaders = [
            DestinationUploader(destination, spool=spool, clock=clock, deliveries=deliveries)
            for destination in destinations
        ]
        metrics.gauge("agentd_snapshot_pending", "Snapshots that a destination has yet to take.").read_from(
            lambda: sum(len(uploader.pending()) for uploader in self._uploaders)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The destinations, in the order of the configuration; without secrets."""
        return tuple(uploader.name for uploader in self._uploaders)

    def request_upload(self) -> None:
        """The agent has settled and its snapshot is in the spool."""
        if self._upload == "settle":
            self._wake()

    async def run(self) -> None:
        """Deliver what an earlier run left, then what is offered. Runs until cancelled."""
        self._wake()
        async with asyncio.TaskGroup() as group:
            for uploader in self._uploaders:
                group.create_task(uploader.run(), name=f"snapshot uploader {uploader.name}")
            # Without destinations there is nothing to do, and a forever-task that returns is a fault.
            await asyncio.get_running_loop().create_future()

    async def flush(self, deadline: float) -> Receipt:
        """Try everything at once and again until `deadline` (monotonic seconds); returns by then at the latest."""
        async with asyncio.TaskGroup() as group:
            for uploader in self._uploaders:
                group.create_task(uploader.flush(deadline), name=f"snapshot flush {uploader.name}")
        return self.receipt()

    def receipt(self) -> Receipt:
        """How far the newest snapshot has come, at every destination that it concerns.

        Snapshots of earlier tasks that are still to go out are listed after it and make the outcome `pending` too.
        """
        newest = self._spool.newest()
        if newest is None:
            return Receipt(SnapshotOutcome.NOTHING)
        receipts = [uploader.receipt(newest) for uploader in self._uploaders if uploader.takes(newest)]
        receipts += [
            uploader.receipt(entry)._replace(
                detail=f"task {entry.task_id}: {uploader.receipt(entry).detail}".rstrip(": "),
            )
            for uploader in self._uploaders
            for entry in uploader.pending()
            if entry.serial != newest.serial
        ]
        return Receipt(
            combined_outcome(receipts), len(newest.payload), newest.messages, newest.sha256, tuple(receipts)
        )

    def _wake(self) -> None:
        for uploader in self._uploaders:
            uploader.wake()
