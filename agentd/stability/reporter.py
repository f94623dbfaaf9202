"""Tells the control plane what holds for the task: once per change, latest wins, never in anybody's way.

coderd inserts a row for every call and makes a notification of every row whose state differs from the last, whoever
wrote it; "two seconds of an identical screen means idle" is what upstream calls the root cause of spammy
notifications.  It also moves the workspace's deadline on every "working", which is why a long one is repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from agentd import log
from agentd.backoff import Backoff
from agentd.clock import Clock
from agentd.coderd.errors import CoderdError
from agentd.metrics import Registry
from agentd.stability.short_text import clean_message
from agentd.stability.task_state import TERMINAL, TaskWord

__all__ = ["Reporter", "Update"]

# coderd's notification key is truncated to the minute: the same content sooner is never shown, only stored.
REPEAT_MIN_S: Final = 60.0
# The activity bump is an hour by default, and a template may set less.
HEARTBEAT_S: Final = 900.0
SEND_TIMEOUT_S: Final = 10.0
RETRY_AFTER_MAX_S: Final = 300.0

Send = Callable[..., Awaitable[None]]
"""`send(state, message, uri, timeout_s=…)`; raises `CoderdError`."""


@dataclass(frozen=True, slots=True)
class Update:
    """What to tell.  `explicit`: a person or the agent itself said so, and was not inferred from the screen."""

    word: TaskWord
    message: str = ""
    uri: str = ""
    explicit: bool = False

    @property
    def content(self) -> tuple[TaskWord, str, str]:
        return (self.word, self.message, self.uri)


class Reporter:
    """One slot: `offer` puts an update in, `run` gets the newest out.

    Nothing is sent before `open()`: coderd drops notifications of an agent that is not ready.  `dropped` counts the
    updates that never went out, because a newer one came first or coderd refused them.  `told` is what coderd took
    last, in an earlier run; `on_told` is handed what it takes now.
    """

    def __init__(
        self,
        *,
        send: Send,
        clock: Clock,
        metrics: Registry,
        heartbeat_s: float = HEARTBEAT_S,
        told: Update | None = None,
        on_told: Callable[[Update], None] = lambda _: None,
        draw: Callable[[], float] | None = None,
    ) -> None:
        self._send = send
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._backoff = Backoff(first_s=1.0, cap_s=60.0, floor_s=0.5, **({"draw": draw} if draw else {}))
        self._log = log.get("stability")
        self._sent = metrics.counter("agentd_app_status_sent_total", "Statuses coderd took.", "state")
        self._dropped = metrics.counter("agentd_app_status_dropped_total", "Statuses not sent.", "reason")
        self._open = False
        self._slot: Update | None = None
        self._told = told
        """What coderd was last told, as far as is known."""
        self._telling: Update | None = None
        # A call that failed may have been carried out: what coderd holds is not known then.
        self._unsure = False
        self._on_told = on_told
        self._told_at: dict[tuple[TaskWord, str, str], float] = {}
        self._working_since: float | None = None
        self._not_before = float("-inf")
        self._failing = False
        self._woken = asyncio.Event()

    @property
    def dropped(self) -> int:
        return int(sum(self._dropped.value(reason=reason) for reason in ("superseded", "refused")))

    def open(self) -> None:
        """The agent is ready."""
        self._open = True
        self._woken.set()

    def offer(self, update: Update) -> None:
        """Say what holds now.  Never blocks; whatever waits in the slot is replaced."""
        update = replace(update, message=clean_message(update.message))
        if update.word is TaskWord.NONE:
            return
        working = update.word is TaskWord.WORKING
        if self._working_since is None or not working:
            self._working_since = self._clock.monotonic() if working else None
        waiting, self._slot = self._slot, None
        if waiting is not None and waiting.content != update.content:
            self._drop("superseded", waiting)
        # That a new agent has begun to work is no news; the first thing to tell is where that led.
        held = self._telling or self._told
        is_news = held is not None or self._unsure or not working or update.explicit
        if is_news and (held is None or self._unsure or held.content != update.content):
            self._slot = update
        self._woken.set()

    async def run(self) -> None:
        """Send what is due, for ever."""
        while True:
            self._woken.clear()
            update, wait_s = self._next()
            if update is not None and wait_s <= 0:
                await self._tell(update)
            else:
                await self._rest(wait_s)

    async def last_word(self, message: str, *, timeout_s: float) -> bool:
        """At stop, after `run` was cancelled: leave no spinner behind.  Whether coderd holds what is true.

        A final state stays as it is, and goes out now if it still waits in the slot.
        """
        last = self._slot or self._told
        if last is None or not self._open:
            return True
        if last.word not in TERMINAL:
            last = Update(TaskWord.IDLE, clean_message(message))
        if self._told is not None and self._told.word is last.word:
            return True
        try:
            await self._send(last.word.value, last.message, last.uri, timeout_s=timeout_s)
        except CoderdError as error:
            self._log.warning("app_status.last_word_lost", state=last.word.value, error=str(error))
            return False
        self._remember(last)
        return True

    def _next(self) -> tuple[Update | None, float]:
        """What to send, and in how many seconds."""
        now = self._clock.monotonic()
        if not self._open:
            return None, float("inf")
        if self._slot is not None:
            repeated = self._told_at.get(self._slot.content, float("-inf")) + REPEAT_MIN_S
            return self._slot, max(self._not_before, repeated) - now
        if self._working_since is not None:
            told_at = max(self._told_at.values(), default=float("-inf"))
            alive = (
                self._told if self._told and self._told.word is TaskWord.WORKING else Update(TaskWord.WORKING)
            )
            return alive, max(
                self._not_before, self._working_since + self._heartbeat_s, told_at + self._heartbeat_s
            ) - now
        return None, float("inf")

    async def _rest(self, wait_s: float) -> None:
        if wait_s == float("inf"):
            await self._woken.wait()
            return
        pause = asyncio.create_task(self._pause(wait_s), name="app status pause")
        woken = asyncio.create_task(self._wake(), name="app status wake")
        try:
            await asyncio.wait({pause, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            woken.cancel()

    async def _pause(self, wait_s: float) -> None:
        await self._clock.sleep(wait_s)

    async def _wake(self) -> None:
        await self._woken.wait()

    async def _tell(self, update: Update) -> None:
        self._telling = update
        try:
            await self._send(update.word.value, update.message, update.uri, timeout_s=SEND_TIMEOUT_S)
        except CoderdError as error:
            self._failed(update, error)
            return
        finally:
            self._telling = None
        if self._failing:
            self._log.info("app_status.restored")
        self._failing = False
        self._backoff.reset()
        self._remember(update)
        if self._slot is update:
            self._slot = None

    def _failed(self, update: Update, error: CoderdError) -> None:
        retry_in_s = max(self._backoff.next(), min(error.retry_after_s or 0.0, RETRY_AFTER_MAX_S))
        if not self._failing or not error.retryable:
            self._log.warning(
                "app_status.failed", state=update.word.value, error=str(error), again=error.retryable
            )
        self._failing = True
        self._unsure = error.retryable
        self._not_before = self._clock.monotonic() + retry_in_s
        if not error.retryable and self._slot is update:
            self._slot = None
            self._drop("refused", update)

    def _remember(self, update: Update) -> None:
        now = self._clock.monotonic()
        self._told, self._unsure = update, False
        self._on_told(update)
        recent = {content: at for content, at in self._told_at.items() if now - at < REPEAT_MIN_S}
        self._told_at = recent | {update.content: now}
        self._sent.inc(state=update.word.value)
        self._log.info("app_status.told", state=update.word.value, message=update.message)

    def _drop(self, reason: str, update: Update) -> None:
        self._dropped.inc(reason=reason)
        self._log.debug("app_status.dropped", reason=reason, state=update.word.value)
