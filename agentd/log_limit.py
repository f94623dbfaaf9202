"""Limits the lines of one event in the log, because a peer decides how often some events happen.

An event may have `BURST` lines at once and one more each second. A change of state, which is a line with the field `new`, may
have one line for each new state and second. Lines above that are held back. Only the newest one is kept, and it follows
within a second: so the last line of an event always tells its last state, and lines are never out of order. The field
`suppressed` counts the lines of the event that were dropped since the line before.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from structlog import DropEvent
from structlog.typing import EventDict, WrappedLogger

BURST: Final = 50
"""Lines of an event at once. A claim with many hooks, or a start with many damaged files, is below it."""
REFILL_S: Final = 1.0

_RELEASED: Final = "_released"
# The runner of hooks limits the output of each run itself, to 200 lines.
_LIMITED_ELSEWHERE: Final = frozenset({"hook.output"})

Emit = Callable[[str, EventDict], None]


class _Event:
    """The lines of one event of one component. `budgets` are by new state: the lines that are left, and as of when."""

    def __init__(self) -> None:
        self.budgets: dict[str, tuple[float, float]] = {}
        self.held: tuple[str, EventDict] | None = None
        self.suppressed = 0
        self.release_due = float("-inf")

    def take(self, state: str, burst: int, now: float) -> bool:
        """Use one line of the budget of `state`. False if there is none left."""
        left, since = self.budgets.get(state, (float(burst), now))
        left = min(float(burst), left + (now - since) / REFILL_S)
        self.budgets[state] = (left - (left >= 1.0), now)
        return left >= 1.0

    def counted(self, fields: EventDict) -> EventDict:
        """`fields` as the line that follows the suppressed ones."""
        suppressed, self.suppressed, self.held = self.suppressed, 0, None
        return {**fields, "suppressed": suppressed} if suppressed else fields


class LineLimiter:
    """A structlog processor. `emit` logs a line that was held back; it may come from a timer of the running event loop."""

    def __init__(self, emit: Emit, now: Callable[[], float] = time.monotonic) -> None:
        self._emit = emit
        self._now = now
        self._lock = threading.Lock()
        self._events: dict[tuple[str, str], _Event] = {}

    def __call__(self, _logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:
        """Pass the line, or hold it back: raises `DropEvent`."""
        if fields.pop(_RELEASED, False) or fields["event"] in _LIMITED_ELSEWHERE:
            return fields
        key = (str(fields.get("component", "")), str(fields["event"]))
        state = str(fields.get("new", ""))
        with self._lock:
            event = self._events.setdefault(key, _Event())
            now = self._now()
            if event.take(state, 1 if state else BURST, now):
                event.suppressed += event.held is not None
                return event.counted(fields)
            event.suppressed += event.held is not None
            event.held = (method, fields)
            if event.release_due <= now:
                event.release_due = now + REFILL_S
                self._release_later(event)
        raise DropEvent

    def flush(self) -> None:
        """Emit every line that is held back."""
        for event in list(self._events.values()):
            self._release(event)

    def reset(self) -> None:
        """Emit what is held back, and forget the budgets."""
        self.flush()
        self._events.clear()

    def _release_later(self, event: _Event) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # in another thread: the next line of the event, or the end of the process, releases it
        loop.call_later(REFILL_S, self._release, event)

    def _release(self, event: _Event) -> None:
        with self._lock:
            if event.held is None:
                return
            method, fields = event.held
            line: dict[str, Any] = {**event.counted(fields), _RELEASED: True}
            state = str(fields.get("new", ""))
            event.take(state, 1 if state else BURST, self._now())
        self._emit(method, line)
