"""Send the state of the task to coderd as an app status: each change at once, the latest state only, with retry.

coderd inserts a row for each call, which is the task's current state at once, and makes a notification of each row whose
state differs from the last, whatever its source; "two seconds of an identical screen means idle" is what upstream calls
the root cause of spammy notifications. The tracker debounces that, so nothing is held back here. Each "working" also
moves the workspace's deadline, so a long one is repeated as a heartbeat, until no message has changed for a time: after
three identical answers AgentAPI shows "running" without an end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from agentd import log
from agentd.backoff import Backoff
from agentd.clock import Clock
from agentd.coderd.errors import CoderdError
from agentd.conversation.message import Message
from agentd.metrics import Registry
from agentd.stability.status_report import Source, StatusReport, TaskState
from agentd.subscribers import Subscribers

# AgentAPI shows "running" before the prompt that began the turn. This is the wait for a message that can be shown.
PROMPT_WAIT_S: Final = 0.5
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
    that coderd accepted in an earlier run; `accepted` gets each report that coderd accepts in this one. A "working" is
    not repeated while no message has changed for `working_max_s`.
    """

    def __init__(
        self,
        *,
        send: Send,
        clock: Clock,
        metrics: Registry,
        is_ready: Callable[[], bool],
        last: StatusReport | None = None,
        working_max_s: float = 3600.0,
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
        self._accepted_at = float("-inf")
        self._pending_since = float("-inf")
        self._working_since: float | None = None
        self._working_max_s = working_max_s
        self._progress_at = float("-inf")
        """When a message or an explicit report changed last."""
        self._is_stalled = False
        self._not_before = float("-inf")
        self._is_failing = False
        self._changed = asyncio.Event()

    def report(self, report: StatusReport) -> None:
        """Make `report` the one to send. Never blocks; a pending one is replaced."""
        if report.state is TaskState.NONE:
            return
        now = self._clock.monotonic()
        is_working, is_explicit = (
            report.state is TaskState.WORKING,
            report.source in (Source.EVENT, Source.REPORT),
        )
        if self._working_since is None or not is_working:
            self._working_since = now if is_working else None
        if is_explicit or not is_working:
            self._on_progress()
        replaced, self._pending = self._pending, None
        if replaced is None or replaced.state is not report.state:
            self._pending_since = now
        if replaced is not None and replaced.content != report.content:
            self._drop("superseded", replaced)
        known = self._sending or self._accepted
        if known is None:
            # The first "working" of a new task is not sent; the first report is the one of its end.
            is_news = self._is_unsure or not is_working or is_explicit
        else:
            # A prompt that was read too late is not a second "working".
            is_late_prompt = (
                is_working and known.state is TaskState.WORKING and not (is_explicit or known.message)
            )
            is_news = self._is_unsure or not (is_late_prompt or known.content == report.content)
        if is_news:
            self._pending = report
        self._changed.set()

    def on_message_changed(self, _message: Message) -> None:
        """The newest message of the conversation is another one, or has another text: the agent makes progress."""
        self._on_progress()

    @property
    def stall_note(self) -> str:
        """Why a working agent does not move the workspace's deadline any more, "" while it does."""
        if not self._is_stalled:
            return ""
        return (
            f"no message changed for {self._working_max_s:g} s, so the workspace's deadline is not extended"
        )

    async def run(self) -> None:
        """Wait until the workspace is ready, then send what is due, until cancelled."""
        while not self._is_ready():
            await self._clock.sleep(READY_POLL_S)
        self._is_open = True
        while True:
            self._changed.clear()
            report, wait_s = self._next()
            if wait_s <= 0 and report is not None:
                await self._try_to_send(report)
            elif wait_s <= 0:
                self._stall()
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
        """What to send, and in how many seconds; without a report, when the heartbeat ends."""
        now = self._clock.monotonic()
        if self._pending is not None:
            is_without_prompt = (
                self._pending.state is TaskState.WORKING
                and self._pending.source is Source.WATCHER
                and not self._pending.message
            )
            due_at = self._pending_since + (PROMPT_WAIT_S if is_without_prompt else 0.0)
            return self._pending, max(self._not_before, due_at) - now
        if self._working_since is None:
            return None, float("inf")
        is_known = self._accepted is not None and self._accepted.state is TaskState.WORKING
        heartbeat = self._accepted if is_known else StatusReport(TaskState.WORKING)
        due_at = max(self._not_before, max(self._working_since, self._accepted_at) + HEARTBEAT_S)
        stalls_at = max(self._working_since, self._progress_at) + self._working_max_s
        if due_at < stalls_at:
            return heartbeat, due_at - now
        return None, stalls_at - now if not self._is_stalled else float("inf")

    def _on_progress(self) -> None:
        self._progress_at = self._clock.monotonic()
        if self._is_stalled:
            self._is_stalled = False
            self._log.info("app_status.heartbeat_resumed")
            self._changed.set()

    def _stall(self) -> None:
        self._is_stalled = True
        self._log.warning("app_status.heartbeat_stopped", reason=self.stall_note)

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
        self._accepted, self._is_unsure = report, False
        self._accepted_at = self._clock.monotonic()
        self.accepted.notify(report)
        self._sent.inc(state=report.state.value)
        self._log.info("app_status.told", state=report.state.value, message=report.message)

    def _drop(self, reason: str, report: StatusReport) -> None:
        self._dropped.inc(reason=reason)
        self._log.debug("app_status.dropped", reason=reason, state=report.state.value)
