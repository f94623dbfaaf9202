"""The time source. Components take a `Clock` as a parameter, so that tests control how time passes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import NamedTuple


class Clock(NamedTuple):
    """Three functions of time, and waiting with a limit.

    `monotonic` measures spans and is never stepped; `wall` stamps records and may be stepped. All in seconds.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """As `asyncio.timeout`, but in seconds of this clock: cancel the body and raise `TimeoutError`."""
        async with asyncio.timeout(None) as limit:
            timer = asyncio.create_task(self._expire(limit, seconds), name="timeout")
            try:
                yield
            finally:
                timer.cancel()

    async def wait_event(self, event: asyncio.Event, timeout_s: float | None) -> bool:
        """Wait until `event` is set, at most `timeout_s` seconds (None: no limit). False on timeout."""
        if event.is_set():
            return True
        if timeout_s is None:
            return await event.wait()
        try:
            async with self.timeout(timeout_s):
                return await event.wait()
        except TimeoutError:
            return False

    async def _expire(self, limit: asyncio.Timeout, seconds: float) -> None:
        await self.sleep(seconds)
        limit.reschedule(asyncio.get_running_loop().time())


class SameMoment:
    """Converts a monotonic time to RFC 3339; consecutive calls for the same moment return the same text.

    Otherwise the text would change with each call: the two clocks drift, and the wall clock is stepped.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.monotonic()
        self._text = rfc3339(clock.wall())

    def to_rfc3339(self, at: float | None) -> str:
        """Convert `at` (monotonic seconds). None repeats the last result, at first the construction time."""
        if at is not None and at != self._at:
            self._at = at
            self._text = rfc3339(self._clock.wall() - (self._clock.monotonic() - at))
        return self._text


def rfc3339(unix_s: float) -> str:
    """`unix_s` as RFC 3339 in UTC with microseconds: `2026-03-02T09:00:00.000000Z`.

    Raises `ValueError` for a time outside the years 1 to 9999.
    """
    try:
        moment = datetime.fromtimestamp(unix_s, UTC)
    except (OverflowError, OSError) as exc:
        raise ValueError(f"{unix_s!r} is not a calendar time") from exc
    # Not strftime: glibc does not pad years below 1000.
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
