"""Uploads the snapshots of the spool to one destination: attempt, retry with backoff, receipt.

Delivery is at-least-once: if a response is lost, the same snapshot is sent again, so a destination must be idempotent.

There are two callers: the daemon in the background, which retries without an end, and a flush, which retries until a
deadline. They never send at the same time: a flush cancels a running attempt.
"""

import asyncio
import contextlib
from concurrent.futures import Future
from typing import Final

from agentd import log
from agentd.backoff import Backoff
from agentd.clock import Clock, rfc3339
from agentd.masking import excerpt
from agentd.metrics import Metric
from agentd.snapshots.destinations.destination import (
    Accepted,
    DeliveryError,
    Destination,
    NotAuthorizedError,
    RejectedError,
    RetryableError,
    UnsupportedError,
)
from agentd.snapshots.entry import SpoolEntry
from agentd.snapshots.receipts import DestinationOutcome, DestinationReceipt
from agentd.snapshots.spool import Spool

ATTEMPT_TIMEOUT_S: Final = 15.0
"""Limit of one attempt in the background. A loaded coderd was seen to need 12 s for a 204."""
SPACING_S: Final = 30.0
"""Least time between two snapshots of a conversation to the same destination, except in a flush."""
SETTLED_MAX: Final = 8
"""Settled snapshots of earlier conversations that wait in memory, 64 KB each, while a destination does not answer."""
NOT_AUTHORIZED_MAX_S: Final = 2.0
"""A flush gives up when credentials that cannot change have been refused for so long, also before it. Not at the first
refusal: while a claim's job runs, coderd refuses the token for some time."""
UNSUPPORTED_PAUSE_S: Final = 3600.0
"""Time after which a server without the feature is asked again: it may have been upgraded."""

# Share of the time left to a deadline that one attempt may use: after a request that hangs there is time for another.
_ATTEMPT_SHARE: Final = 2 / 3
_REPLACED_SHARE: Final = 1 / 4
# If `Retry-After` ends behind the deadline, the last attempt starts so long before the deadline.
_LAST_ATTEMPT_S: Final = 1.0
_DETAIL_MAX_CHARS: Final = 400


class DestinationUploader:
    """Sends snapshots from the spool to one destination. `deliveries` counts attempts by destination and outcome.

    `run` sends snapshots with a serial of at most `background_serial_max`; a flush sends all. The spool has one snapshot
    of each task. A settled snapshot that another conversation replaces there before it is delivered, because AgentAPI was
    restarted, stays here in memory. It is sent at once, before the newer one, which then waits for `SPACING_S`.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        spool: Spool,
        clock: Clock,
        deliveries: Metric,
        background_serial_max: float,
    ) -> None:
        self.name = destination.name
        self._destination = destination
        self._spool = spool
        self._clock = clock
        self._deliveries = deliveries
        self._background_serial_max = background_serial_max
        self._log = log.get("snapshots").bind(destination=self.name)
        self._due = asyncio.Event()
        self._settled: list[SpoolEntry] = []
        """Settled snapshots that are not delivered, oldest first; none continues another."""
        self._is_replaced = asyncio.Event()
        self._sending = asyncio.Lock()
        self._backoff = Backoff(first_s=1.0, cap_s=60.0, floor_s=0.2)
        self._not_before = float("-inf")
        self._unsupported_until = float("-inf")
        self._not_authorized_since: float | None = None
        self._attempt: asyncio.Timeout | None = None
        self._cut_short = False
        # The last receipt of this process by task: valid only while its serial equals the entry's serial.
        self._receipts: dict[str, tuple[int, DestinationReceipt]] = {}
        self._failing_with: tuple[DestinationOutcome, int | None, str] | None = None

    def wake(self) -> None:
        """Make `run` check for pending snapshots."""
        self._due.set()

    def keep(self, settled: SpoolEntry) -> None:
        """Keep a settled snapshot until it, or a continuation of it, is delivered or refused."""
        if self.supports(settled) and self.receipt(settled).outcome is DestinationOutcome.PENDING:
            self._drop_settled(settled)
            self._settled.append(settled)
        for dropped in self._settled[:-SETTLED_MAX]:
            self._settled.remove(dropped)
            self._log.warning("snapshot.dropped", task_id=dropped.task_id, captured_at=dropped.captured_at)

    def on_captured(self) -> None:
        """The spool has a newer snapshot."""
        if self._settled and self._replaced():
            self._is_replaced.set()
            self._due.set()

    def pending(self) -> list[SpoolEntry]:
        """Return the snapshots that this destination supports and has not accepted, newest first.

        A refused snapshot is not pending until agentd restarts. It is then tried once more, because the task may
        exist by then (a prebuild was claimed) or the server may have been upgraded.
        """
        return [
            entry
            for entry in reversed(self._spool.entries())
            if self.supports(entry)
            and not entry.delivered_to(self.name)
            and self.receipt(entry).outcome is DestinationOutcome.PENDING
        ]

    def supports(self, entry: SpoolEntry) -> bool:
        """Return False for an entry without a task if this destination needs one."""
        return entry.task_id != "" or not self._destination.needs_task

    def receipt(self, entry: SpoolEntry) -> DestinationReceipt:
        """Return the delivery state of `entry` at this destination."""
        serial, receipt = self._receipts.get(entry.task_id, (0, None))
        if receipt is not None and serial == entry.serial:
            return receipt
        if entry.delivered_to(self.name):
            return entry.receipts[self.name]
        if self._clock.monotonic() < self._unsupported_until:
            return DestinationReceipt(self.name, DestinationOutcome.UNSUPPORTED)
        if receipt is not None and receipt.outcome is DestinationOutcome.REFUSED:
            detail = f"the snapshot before was refused: {receipt.detail}"
            return DestinationReceipt(self.name, DestinationOutcome.PENDING, receipt.status, detail)
        return DestinationReceipt(self.name, DestinationOutcome.PENDING)

    async def run(self) -> None:
        """Deliver after each `wake`, at most every `SPACING_S`, and retry with backoff. Runs until cancelled.

        What an earlier run left is delivered at once.
        """
        for entry in reversed(self.pending()):
            if entry.serial <= self._background_serial_max:
                self.keep(entry)
        self.wake()
        while True:
            await self._due.wait()
            await self._wait_for_spacing()
            self._due.clear()
            self._is_replaced.clear()
            try:
                async with self._sending:
                    if replaced := self._replaced():
                        self._due.set()
                        await self._deliver_all(replaced, ATTEMPT_TIMEOUT_S)
                    else:
                        await self._deliver_pending(ATTEMPT_TIMEOUT_S, self._background_serial_max)
            except RetryableError as exc:
                self._not_before = self._clock.monotonic() + max(
                    self._backoff.next(), exc.retry_after_s or 0.0
                )
                self._due.set()

    async def flush(self, deadline: float) -> None:
        """Deliver every pending snapshot now, retry until `deadline` (monotonic seconds), and return by then."""
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                if self._attempt is not None:
                    self._cut_short = True
                    self._attempt.reschedule(asyncio.get_running_loop().time())
                async with self._sending:
                    self._unsupported_until = float("-inf")
                    await self._flush(deadline)
        except (TimeoutError, RetryableError):
            self._log.debug("snapshot.flush_out_of_time")

    async def _flush(self, deadline: float) -> None:
        """Raise the last `RetryableError` at the deadline."""
        from agentd import retry  # noqa: PLC0415 - the daemon loads it late

        policy = retry.until(
            deadline, clock=self._clock, on=RetryableError, first_s=0.2, cap_s=2.0, last_try_s=_LAST_ATTEMPT_S
        )
        for entry in self._replaced():
            # One attempt, in a part of the time: the newest snapshot is more important.
            with contextlib.suppress(RetryableError):
                await self._deliver(entry, max(0.0, deadline - self._clock.monotonic()) * _REPLACED_SHARE)
        async for attempt in policy:
            with attempt:
                while self.pending():  # a newer snapshot may arrive during an attempt
                    left_s = max(0.0, deadline - self._clock.monotonic())
                    timeout_s = max(left_s * _ATTEMPT_SHARE, min(left_s * 0.95, _LAST_ATTEMPT_S))
                    try:
                        await self._deliver_pending(timeout_s)
                    except NotAuthorizedError:
                        if self._not_authorized_s() >= NOT_AUTHORIZED_MAX_S:
                            return
                        raise

    async def _deliver_pending(self, timeout_s: float, serial_max: float = float("inf")) -> None:
        """Try every pending snapshot up to `serial_max` once, newest first. Raises the first `RetryableError`."""
        await self._deliver_all([entry for entry in self.pending() if entry.serial <= serial_max], timeout_s)

    async def _deliver_all(self, entries: list[SpoolEntry], timeout_s: float) -> None:
        for entry in entries:
            await self._deliver(entry, timeout_s)
            self._backoff.reset()
            self._not_before = self._clock.monotonic() + SPACING_S

    async def _deliver(self, entry: SpoolEntry, timeout_s: float) -> None:
        """Make one attempt and record its receipt. Raises `RetryableError` if it must be repeated."""
        try:
            accepted = await self._try(entry, timeout_s)
        except RetryableError as exc:
            if not isinstance(exc, NotAuthorizedError):
                self._not_authorized_since = None
            elif self._not_authorized_since is None:
                self._not_authorized_since = self._clock.monotonic()
            if not self._cut_short:
                self._record(entry, DestinationOutcome.PENDING, exc.status, exc)
            raise
        except UnsupportedError as exc:
            self._unsupported_until = self._clock.monotonic() + UNSUPPORTED_PAUSE_S
            self._settled.clear()
            self._record(entry, DestinationOutcome.UNSUPPORTED, exc.status, exc)
        except RejectedError as exc:
            self._record(entry, DestinationOutcome.REFUSED, exc.status, exc)
        else:
            self._not_authorized_since = None
            self._record(entry, DestinationOutcome.DELIVERED, accepted.status, accepted.detail)

        self._drop_settled(entry)

    def _not_authorized_s(self) -> float:
        """For how long every answer has refused the credentials."""
        since = self._not_authorized_since
        return 0.0 if since is None else self._clock.monotonic() - since

    def _replaced(self) -> list[SpoolEntry]:
        """Return the settled snapshots that the spool has no more, nor a continuation of them, oldest first."""
        found = [(settled, self._spool.get(settled.task_id)) for settled in self._settled]
        return [
            settled
            for settled, newest in found
            if newest is None or (newest.serial != settled.serial and not newest.continues(settled))
        ]

    def _drop_settled(self, entry: SpoolEntry) -> None:
        """Forget the settled snapshots that `entry` contains."""
        self._settled = [
            settled
            for settled in self._settled
            if settled.task_id != entry.task_id
            or (
                settled.serial != entry.serial
                and not (settled.serial < entry.serial and entry.continues(settled))
            )
        ]

    async def _wait_for_spacing(self) -> None:
        """Wait for the time of the next delivery. A replaced snapshot does not wait for the spacing, but for a backoff."""
        pause_s = max(0.0, self._not_before - self._clock.monotonic())
        if pause_s and not self._backoff.failures:
            await self._clock.wait_event(self._is_replaced, pause_s)
        else:
            await self._clock.sleep(pause_s)

    async def _try(self, entry: SpoolEntry, timeout_s: float) -> Accepted:
        """Return the destination's answer. Raises `RetryableError` after `timeout_s` or when a flush cuts it short."""
        self._cut_short = False
        try:
            async with asyncio.timeout(timeout_s) as self._attempt:
                return await self._destination.deliver(entry)
        except TimeoutError as exc:
            raise RetryableError(f"no answer within {timeout_s:.1f}s") from exc
        except DeliveryError:
            raise
        except Exception as exc:
            # A defect of one destination, or an answer that it does not foresee.
            self._log.error("snapshot.destination_failed", exc_info=exc)
            raise RetryableError(f"unexpected {type(exc).__name__}: {exc}") from exc
        finally:
            self._attempt = None

    def _record(
        self, entry: SpoolEntry, outcome: DestinationOutcome, status: int | None, why: DeliveryError | str
    ) -> None:
        """Count, log and store the outcome of an attempt; only a final outcome goes to the disk."""
        before = self.receipt(entry)
        detail = excerpt(str(why), _DETAIL_MAX_CHARS)
        at = rfc3339(self._clock.wall())
        receipt = DestinationReceipt(self.name, outcome, status, detail, before.attempts + 1, at)
        if entry.serial >= self._receipts.get(entry.task_id, (0, receipt))[0]:
            self._receipts[entry.task_id] = (entry.serial, receipt)
        self._deliveries.inc(destination=self.name, outcome=str(outcome))
        self._log_change(entry, receipt)
        if outcome is not DestinationOutcome.PENDING and self._spool.add_receipt(entry, receipt) is not None:
            # Not waited for: a disk that hangs must not hold up the next delivery.
            self._spool.start_write().add_done_callback(self._log_unwritten)

    def _log_unwritten(self, write: "Future[OSError | None]") -> None:
        """Log a receipt that is only in memory: after a restart the snapshot is delivered again, which is harmless."""
        if (exc := write.result()) is not None:
            self._log.warning("spool.receipt_not_kept", reason=exc.strerror or str(exc))

    def _log_change(self, entry: SpoolEntry, receipt: DestinationReceipt) -> None:
        """Log each delivery, and each new failure reason once."""
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
        write_log = self._log.info if receipt.outcome is DestinationOutcome.UNSUPPORTED else self._log.warning
        write_log(
            f"snapshot.{'delivery_failed' if receipt.outcome is DestinationOutcome.PENDING else receipt.outcome}",
            task_id=entry.task_id,
            status=receipt.status,
            reason=receipt.detail,
            kept="in the spool",
        )
