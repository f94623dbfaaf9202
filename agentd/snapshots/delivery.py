"""Delivers snapshots to every destination: in the background while the daemon runs, and until a deadline at stop.

Each destination has its own uploader, receipt and retry schedule. Destinations do not wait for each other.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final, Literal

from agentd.clock import Clock
from agentd.metrics import Registry
from agentd.restarting import keep_running
from agentd.snapshots.destinations.destination import Destination
from agentd.snapshots.entry import SpoolEntry
from agentd.snapshots.receipts import Receipt, SnapshotOutcome, combined_outcome
from agentd.snapshots.spool import Spool
from agentd.snapshots.uploader import DestinationUploader

RECEIPT_TIMEOUT_S: Final = 1.0
"""How long a flush waits until its receipts are on disk."""

Upload = Literal["settle", "stop"]


class Delivery:
    """The uploaders of all destinations. `upload` is the policy: `settle` uploads on request, `stop` only in a flush."""

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
            "agentd_snapshot_deliveries_total", "Attempts to deliver a snapshot.", "destination", "outcome"
        )
        self._spool = spool
        self._upload = upload
        self._clock = clock
        newest = spool.newest()
        # With `stop`, only the snapshots of an earlier run are uploaded before a flush.
        leftover_serial = newest.serial if newest else 0
        self._uploaders = [
            DestinationUploader(
                destination,
                spool=spool,
                clock=clock,
                deliveries=deliveries,
                background_serial_max=leftover_serial if upload == "stop" else float("inf"),
            )
            for destination in destinations
        ]
        metrics.gauge(
            "agentd_snapshot_pending", "Snapshots that a destination has not accepted yet."
        ).read_from(lambda: sum(len(uploader.pending()) for uploader in self._uploaders))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the destinations, in the order of the configuration. They hold no secrets."""
        return tuple(uploader.name for uploader in self._uploaders)

    def request_upload(self) -> None:
        """Upload the newest snapshot in the background, if the policy is `settle`. Called when the agent has settled."""
        if self._upload == "settle":
            for uploader in self._uploaders:
                uploader.wake()

    def keep_settled(self, entry: SpoolEntry) -> None:
        """`entry` is the conversation of a settled agent: deliver it also if another conversation replaces it."""
        if self._upload == "settle":
            for uploader in self._uploaders:
                uploader.keep(entry)

    def on_captured(self, _entry: SpoolEntry) -> None:
        """The spool has a newer snapshot."""
        for uploader in self._uploaders:
            uploader.on_captured()

    async def run(self) -> None:
        """Deliver the snapshots of an earlier run, then those requested. Runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            for uploader in self._uploaders:
                name = f"snapshot uploader {uploader.name}"
                group.create_task(keep_running(name, uploader.run, self._clock), name=name)
            # Without destinations the group is empty, and a background task must not return.
            await asyncio.get_running_loop().create_future()

    async def flush(self, deadline: float) -> Receipt:
        """Deliver every pending snapshot now, retry until `deadline` (monotonic seconds), and return by then.

        Waits at most `RECEIPT_TIMEOUT_S` for the receipts to be on disk.
        """
        flushes = [uploader.flush(deadline) for uploader in self._uploaders]
        faults = [fault for fault in await asyncio.gather(*flushes, return_exceptions=True) if fault]
        if faults:
            raise BaseExceptionGroup("a delivery failed unexpectedly", faults)
        left_s = max(0.0, deadline - self._clock.monotonic())
        # A failure is logged by the uploader. The receipt in memory is right in any case.
        with contextlib.suppress(OSError):
            await self._spool.flush_to_disk(min(RECEIPT_TIMEOUT_S, left_s))
        return self.receipt()

    def receipt(self) -> Receipt:
        """Return the delivery state of the newest snapshot at every destination that supports it.

        Pending snapshots of earlier tasks follow it, and make the outcome `pending` too.
        """
        newest = self._spool.newest()
        if newest is None:
            return Receipt(SnapshotOutcome.NOTHING)
        receipts = [uploader.receipt(newest) for uploader in self._uploaders if uploader.supports(newest)]
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
