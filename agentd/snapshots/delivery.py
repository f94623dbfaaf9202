"""Gets the newest snapshot to every destination: as it settles while the daemon runs, and against a deadline at stop.

Each destination has its own courier, receipt and pace; none waits for another.
"""

import asyncio
from collections.abc import Sequence
from typing import Literal

from agentd.clock import Clock
from agentd.metrics import Registry
from agentd.snapshots.courier import Courier
from agentd.snapshots.destinations import Destination
from agentd.snapshots.receipts import Overall, Receipt, overall
from agentd.snapshots.spool import Spool

Upload = Literal["settle", "stop"]


class Delivery:
    """All couriers. `upload` is the policy: `settle` sends what is offered, `stop` leaves it to the flush."""

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
        self._couriers = [
            Courier(destination, spool=spool, clock=clock, deliveries=deliveries)
            for destination in destinations
        ]
        metrics.gauge("agentd_snapshot_pending", "Snapshots that a destination has yet to take.").read_from(
            lambda: sum(len(courier.pending()) for courier in self._couriers)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The destinations, in the order of the configuration; without secrets."""
        return tuple(courier.name for courier in self._couriers)

    def offer(self) -> None:
        """The agent has settled and its snapshot is in the spool."""
        if self._upload == "settle":
            self._wake()

    async def run(self) -> None:
        """Deliver what an earlier run left, then what is offered. Runs until cancelled."""
        self._wake()
        async with asyncio.TaskGroup() as group:
            for courier in self._couriers:
                group.create_task(courier.run(), name=f"snapshot courier {courier.name}")
            # Without destinations there is nothing to do, and a forever-task that returns is a fault.
            await asyncio.get_running_loop().create_future()

    async def flush(self, deadline: float) -> Receipt:
        """Try everything at once and again until `deadline` (monotonic seconds); returns by then at the latest."""
        async with asyncio.TaskGroup() as group:
            for courier in self._couriers:
                group.create_task(courier.flush(deadline), name=f"snapshot flush {courier.name}")
        return self.receipt()

    def receipt(self) -> Receipt:
        """How far the newest snapshot has come, at every destination that it concerns.

        Snapshots of earlier tasks that are still to go out are listed after it and make the outcome `pending` too.
        """
        newest = self._spool.newest()
        if newest is None:
            return Receipt(Overall.NOTHING)
        receipts = [courier.receipt(newest) for courier in self._couriers if courier.takes(newest)]
        receipts += [
            courier.receipt(entry)._replace(
                detail=f"task {entry.task_id}: {courier.receipt(entry).detail}".rstrip(": "),
            )
            for courier in self._couriers
            for entry in courier.pending()
            if entry.serial != newest.serial
        ]
        return Receipt(
            overall(receipts), len(newest.payload), newest.messages, newest.sha256, tuple(receipts)
        )

    def _wake(self) -> None:
        for courier in self._couriers:
            courier.wake()
