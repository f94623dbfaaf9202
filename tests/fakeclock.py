"""A clock that a test advances."""

import asyncio
import heapq
import itertools

from agentd.clock import Clock


class FakeClock:
    """`await clock.advance(5)` ends the sleeps of the next 5 seconds in order, one after the other."""

    def __init__(self, *, monotonic: float = 1000.0, wall: float = 1_772_442_000.0) -> None:
        self.now = monotonic
        self.wall_now = wall  # 2026-03-02T09:00:00Z
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._slept_more = asyncio.Event()

    def as_clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now, wall=lambda: self.wall_now, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._slept_more.set()
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        until = self.now + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            at, _, future = heapq.heappop(self._sleepers)
            if future.cancelled():
                continue
            self._move(at)
            if not future.done():
                future.set_result(None)
            await self.settle()
        self._move(until)
        await self.settle()

    async def next_sleep(self) -> float:
        """Wait (in real time) until a task sleeps, also one that already does; return its seconds."""
        while not self.sleeping():
            self._slept_more.clear()
            await self._slept_more.wait()
        return self.slept[-1]

    def sleeping(self) -> int:
        """The number of tasks that sleep now."""
        return sum(1 for _, _, future in self._sleepers if not future.done())

    async def settle(self, rounds: int = 20) -> None:
        """Run every task that is ready; no time passes."""
        for _ in range(rounds):
            await asyncio.sleep(0)

    def _move(self, to: float) -> None:
        if to > self.now:
            self.wall_now += to - self.now
            self.now = to


class SkippingClock:
    """A clock whose sleeps return at once and move its time on: a retry loop reaches its deadline without a wait."""

    def __init__(self, *, monotonic: float = 1000.0) -> None:
        self.now = monotonic

    def as_clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)
        await asyncio.sleep(0)
