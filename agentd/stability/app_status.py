"""Send the state of the task to coderd as an app status: once per change, the latest state only, with retry.

coderd inserts a row for each call and makes a notification of each row whose state differs from the last, whatever its
source; "two seconds of an identical screen means idle" is what upstream calls the root cause of spammy notifications.
Each "working" also moves the workspace's deadline, so a long one is repeated as a heartbeat.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from agentd import log
from agentd.backoff import Backoff
from agentd.clock import Clock
from agentd.coderd.errors import CoderdError
from agentd.metrics import Registry
from agentd.stability.status_report import Source, StatusReport, TaskState
from agentd.subscribers import Subscribers

# coderd's notification key is truncated to the minute: the same content sooner is stored, but not shown.
REPEAT_MIN_S: Final = 60.0
# "working" moves the deadline by an hour by default; a template may set less.
HEARTBEAT_S: Final = 900.0
SEND_TIMEOUT_S: Final = 10.0
READY_POLL_S: Final = 1.0
FINAL_MESSAGE: Final = "The workspace is stopping"

Send = Callable[..., Awaitable[None]]
"""`send(state, message, uri, timeout_s=…)`; raises `CoderdError`."""


class AppStatusReporter:
    """Sends the newest report. A pending report that a newer one replaces is dropped.

    Nothing is sent before `is_ready()`: coderd drops notifications of an agent that is not ready. `last` is the report
    that coderd accepted in an earlier run; `accepted` gets each report that coderd accepts in this one.
    """

    def __init__(
        self,
        *,
        send: Send,
        clock: Clock,
        metrics: Registry,
        is_ready: Callable[[], bool],
        last: StatusReport | None = None,
    ) -> None:
        self.accepted = Subscribers[StatusReport]()
        self._send = send
        self._clock = clock
        self._is_ready = is_ready
        self._backoff = Backoff(first_s=1.0, cap_s=60.0, floor_s=0.5)
        self._log = log.get("stability")
        self._sent = metrics.counter("agentd_app_status_sent_total", "Statuses coderd took.", "state")
        self._dropped = metrics.counter("agentd_app_status_dropped_total", "Statuses not sent.", "reason")
        self._is_open = False
        self._pending: StatusReport | None = None
        self._accepted = last
        """What coderd accepted last, as far as is known."""
        self._sending: StatusReport | None = None
        # A call that failed may have been carried out; what coderd has is unknown then.
        self._is_unsure = False
        self._accepted_at: dict[tuple[TaskState, str, str], float] = {}
        self._working_since: float | None = None
        self._not_before = float("-inf")
        self._is_failing = False
        self._changed = asyncio.Event()

    def report(self, report: StatusReport) -> None:
        """Make `report` the one to send. Never blocks; a pending one is replaced."""
        if report.state is TaskState.NONE:
            return
        is_working = report.state is TaskState.WORKING
        if self._working_since is None or not is_working:
            self._working_since = self._clock.monotonic() if is_working else None
        replaced, self._pending = self._pending, None
        if replaced is not None and replaced.content != report.content:
            self._drop("superseded", replaced)
        # The first "working" of a new task is not sent; the first report is the one of its end.
        known = self._sending or self._accepted
        is_news = (
            known is not None
            or self._is_unsure
            or not is_working
            or report.source in (Source.EVENT, Source.REPORT)
        )
        if is_news and (known is None or self._is_unsure or known.content != report.content):
            self._pending = report
        self._changed.set()

    async def run(self) -> None:
        """Wait until the workspace is ready, then send what is due, until cancelled."""
        while not self._is_ready():
            await self._clock.sleep(READY_POLL_S)
        self._is_open = True
        while True:
            self._changed.clear()
            report, wait_s = self._next()
            if report is not None and wait_s <= 0:
                await self._try_to_send(report)
            else:
                await self._clock.wait_event(self._changed, None if wait_s == float("inf") else wait_s)

    async def send_final(self, *, timeout_s: float) -> bool:
        """At stop, after `run` was cancelled: replace a reported "working" by "idle". True if coderd has the right state.

        A final state is never replaced, and is sent now if it is still pending.
        """
        last = self._pending or self._accepted
        if last is None or not self._is_open:
            return True
        if not last.is_final:
            last = StatusReport(TaskState.IDLE, message=FINAL_MESSAGE)
        if self._accepted is not None and self._accepted.state is last.state:
            return True
        try:
            await self._send(last.state.value, last.message, last.uri, timeout_s=timeout_s)
        except CoderdError as exc:
            self._log.warning("app_status.final_update_failed", state=last.state.value, error=str(exc))
            return False
        self._on_accepted(last)
        return True

    def _next(self) -> tuple[StatusReport | None, float]:
        """What to send, and in how many seconds."""
        now = self._clock.monotonic()
        if self._pending is not None:
            repeat_at = self._accepted_at.get(self._pending.content, float("-inf")) + REPEAT_MIN_S
            return self._pending, max(self._not_before, repeat_at) - now
        if self._working_since is None:
            return None, float("inf")
        accepted_at = max(self._accepted_at.values(), default=float("-inf"))
        is_known = self._accepted is not None and self._accepted.state is TaskState.WORKING
        heartbeat = self._accepted if is_known else StatusReport(TaskState.WORKING)
        due_at = max(self._not_before, max(self._working_since, accepted_at) + HEARTBEAT_S)
        return heartbeat, due_at - now

    async def _try_to_send(self, report: StatusReport) -> None:
        self._sending = report
        try:
            await self._send(report.state.value, report.message, report.uri, timeout_s=SEND_TIMEOUT_S)
        except CoderdError as exc:
            self._on_failed(report, exc)
            return
        finally:
            self._sending = None
        if self._is_failing:
            self._log.info("app_status.restored")
        self._is_failing = False
        self._backoff.reset()
        self._on_accepted(report)
        if self._pending is report:
            self._pending = None

    def _on_failed(self, report: StatusReport, error: CoderdError) -> None:
        retry_in_s = max(self._backoff.next(), error.retry_after_s or 0.0)
        if not self._is_failing or not error.retryable:
            self._log.warning(
                "app_status.failed", state=report.state.value, error=str(error), again=error.retryable
            )
        self._is_failing = True
        self._is_unsure = error.retryable
        self._not_before = self._clock.monotonic() + retry_in_s
        if not error.retryable and self._pending is report:
            self._pending = None
            self._drop("refused", report)

    def _on_accepted(self, report: StatusReport) -> None:
        now = self._clock.monotonic()
        self._accepted, self._is_unsure = report, False
        self.accepted.notify(report)
        recent = {content: at for content, at in self._accepted_at.items() if now - at < REPEAT_MIN_S}
        self._accepted_at = recent | {report.content: now}
        self._sent.inc(state=report.state.value)
        self._log.info("app_status.told", state=report.state.value, message=report.message)

    def _drop(self, reason: str, report: StatusReport) -> None:
        self._dropped.inc(reason=reason)
        self._log.debug("app_status.dropped", reason=reason, state=report.state.value)
