"""Takes what is in the spool to one destination: tries, waits, tries again, and writes down what became of it.

Two callers share a uploader: the daemon, which tries for ever at a gentle pace, and a flush, which tries at once and
hard until a deadline. They never send at the same time; a flush cuts a running try short, for repeating is harmless.
"""

import asyncio
from typing import Final

from agentd import log
from agentd.backoff import Backoff
from agentd.clock import Clock, rfc3339
from agentd.metrics import Metric
from agentd.snapshots.destinations import (
    Accepted,
    DeliveryError,
    Destination,
    RefusedError,
    RetryableError,
    UnsupportedError,
)
from agentd.snapshots.entry import SpoolEntry
from agentd.snapshots.receipts import DestinationOutcome, DestinationReceipt
from agentd.snapshots.spool import Spool

ATTEMPT_TIMEOUT_S: Final = 15.0
"""One try in the background. A loaded coderd has been seen to need twelve seconds for a 204."""
SPACING_S: Final = 30.0
"""Between two snapshots to the same destination, except at a flush."""
UNSUPPORTED_PAUSE_S: Final = 3600.0
"""A server without the feature is asked again after an upgrade at the latest so much later."""

# How much of what is left of a deadline one try may use: a request that hangs must leave time for another.
_SHARE: Final = 2 / 3
# A server that asks for more patience than there is gets a last try so long before the end.
_LAST_TRY_S: Final = 1.0
_PATIENCE_MAX_S: Final = 300.0
_DETAIL_MAX_CHARS: Final = 400


class DestinationUploader:
    """One destination's way out of the spool. `deliveries` counts tries by destination and outcome."""

    def __init__(self, destination: Destination, *, spool: Spool, clock: Clock, deliveries: Metric) -> None:
        self.name = destination.name
        self._destination = destination
        self._spool = spool
        self._clock = clock
        self._deliveries = deliveries
        self._log = log.get("snapshots").bind(destination=self.name)
        self._due = asyncio.Event()
        self._turn = asyncio.Lock()
        self._backoff = Backoff(first_s=1.0, cap_s=60.0, floor_s=0.2)
        self._not_before = float("-inf")
        self._unsupported_until = float("-inf")
        self._attempt: asyncio.Timeout | None = None
        self._cut_short = False
        # The last receipt in this process, by task; it is the entry's only while the serial is.
        self._receipts: dict[str, tuple[int, DestinationReceipt]] = {}
        self._failing_with: tuple[DestinationOutcome, int | None, str] | None = None

    def wake(self) -> None:
        """There may be something to deliver."""
        self._due.set()

    def pending(self) -> list[SpoolEntry]:
        """What this destination could have and has not, newest first.

        Refusals count for the life of the process only: after a restart each is tried once more, because a task may
        have come into being (a prebuild was claimed) or the server have been upgraded.
        """
        return [
            entry
            for entry in reversed(self._spool.entries())
            if self.takes(entry)
            and not entry.delivered_to(self.name)
            and self.receipt(entry).outcome is DestinationOutcome.PENDING
        ]

    def takes(self, entry: SpoolEntry) -> bool:
        """Whether the entry concerns this destination at all."""
        return entry.task_id != "" or not self._destination.needs_task

    def receipt(self, entry: SpoolEntry) -> DestinationReceipt:
        """How far the entry has come."""
        serial, receipt = self._receipts.get(entry.task_id, (0, None))
        if receipt is not None and serial == entry.serial:
            return receipt
        if entry.delivered_to(self.name):
            return entry.receipts[self.name]
        if self._clock.monotonic() < self._unsupported_until:
            return DestinationReceipt(self.name, DestinationOutcome.UNSUPPORTED)
        return DestinationReceipt(self.name, DestinationOutcome.PENDING)

    async def run(self) -> None:
        """Deliver whenever woken, at most every `SPACING_S`, and keep trying what may work later. For ever."""
        while True:
            await self._due.wait()
            await self._clock.sleep(max(0.0, self._not_before - self._clock.monotonic()))
            self._due.clear()
            try:
                async with self._turn:
                    await self._deliver_pending(ATTEMPT_TIMEOUT_S)
            except RetryableError as error:
                asked_s = min(error.retry_after_s or 0.0, _PATIENCE_MAX_S)
                self._not_before = self._clock.monotonic() + max(self._backoff.next(), asked_s)
                self._due.set()

    async def flush(self, deadline: float) -> None:
        """Deliver everything that is pending, trying again until `deadline` (monotonic seconds), and return by then."""
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                if self._attempt is not None:
                    self._cut_short = True
                    self._attempt.reschedule(asyncio.get_running_loop().time())
                async with self._turn:
                    self._unsupported_until = float("-inf")
                    await self._flush(deadline)
        except (TimeoutError, RetryableError):
            self._log.debug("snapshot.flush_out_of_time")

    async def _flush(self, deadline: float) -> None:
        """Raises the last `RetryableError` when time is up."""
        from agentd import retry  # noqa: PLC0415 - the daemon loads it late

        policy = retry.until(
            deadline, clock=self._clock, on=RetryableError, first_s=0.2, cap_s=2.0, last_try_s=_LAST_TRY_S
        )
        async for attempt in policy:
            with attempt:
                while self.pending():  # a newer one may come meanwhile
                    left_s = max(0.0, deadline - self._clock.monotonic())
                    await self._deliver_pending(max(left_s * _SHARE, min(left_s * 0.95, _LAST_TRY_S)))

    async def _deliver_pending(self, timeout_s: float) -> None:
        """Try everything that is pending, newest first. Raises the first `RetryableError`."""
        for entry in self.pending():
            await self._deliver(entry, timeout_s)
            self._backoff.reset()
            self._not_before = self._clock.monotonic() + SPACING_S

    async def _deliver(self, entry: SpoolEntry, timeout_s: float) -> None:
        """One try, with its receipt. Raises `RetryableError` when there is to be another."""
        try:
            accepted = await self._try(entry, timeout_s)
        except RetryableError as error:
            if not self._cut_short:
                await self._note(entry, DestinationOutcome.PENDING, error.status, error)
            raise
        except UnsupportedError as error:
            self._unsupported_until = self._clock.monotonic() + UNSUPPORTED_PAUSE_S
            await self._note(entry, DestinationOutcome.UNSUPPORTED, error.status, error)
        except RefusedError as error:
            await self._note(entry, DestinationOutcome.REFUSED, error.status, error)
        else:
            await self._note(entry, DestinationOutcome.DELIVERED, accepted.status, accepted.detail)

    async def _try(self, entry: SpoolEntry, timeout_s: float) -> Accepted:
        """The destination's answer within `timeout_s`, or until a flush cuts it short."""
        self._cut_short = False
        try:
            async with asyncio.timeout(timeout_s) as self._attempt:
                return await self._destination.deliver(entry, timeout_s=timeout_s)
        except TimeoutError as error:
            raise RetryableError(f"no answer within {timeout_s:.1f}s") from error
        finally:
            self._attempt = None

    async def _note(
        self, entry: SpoolEntry, outcome: DestinationOutcome, status: int | None, why: DeliveryError | str
    ) -> None:
        """Count, say and keep what became of a try. Only what is settled goes to the disk."""
        before = self.receipt(entry)
        detail = log.masked(str(why))[:_DETAIL_MAX_CHARS]
        at = rfc3339(self._clock.wall())
        receipt = DestinationReceipt(self.name, outcome, status, detail, before.attempts + 1, at)
        self._receipts[entry.task_id] = (entry.serial, receipt)
        self._deliveries.inc(destination=self.name, outcome=str(outcome))
        self._say(entry, receipt)
        if outcome is not DestinationOutcome.PENDING:
            try:
                await self._spool.in_thread(self._spool.mark, entry, receipt)
            except OSError as error:
                # Counts until the process ends; the next one delivers again, which is harmless.
                self._log.warning("spool.receipt_not_kept", reason=error.strerror or str(error))

    def _say(self, entry: SpoolEntry, receipt: DestinationReceipt) -> None:
        """Every delivery, and every change of what keeps one from happening."""
        if receipt.outcome is DestinationOutcome.DELIVERED:
            self._log.info(
                "snapshot.delivered",
                task_id=entry.task_id,
                messages=entry.messages,
                bytes=len(entry.payload),
                attempts=receipt.attempts,
                **({"detail": receipt.detail} if receipt.detail else {}),
            )
            self._failing_with = None
            return
        kind = (receipt.outcome, receipt.status, entry.task_id)
        if kind == self._failing_with:
            return
        self._failing_with = kind
        tell = self._log.info if receipt.outcome is DestinationOutcome.UNSUPPORTED else self._log.warning
        tell(
            f"snapshot.{'delivery_failed' if receipt.outcome is DestinationOutcome.PENDING else receipt.outcome}",
            task_id=entry.task_id,
            status=receipt.status,
            reason=receipt.detail,
            kept="in the spool",
        )
