"""One request of a kind at a time, however often and by whomever it is asked for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")

# A request whose answer has not begun is let go after this and sent anew, in case the other side forgot it: a host that
# vanished sends no reset. A turn of minutes leaves six blocked requests a minute behind, not sixty.
UNHEARD_MAX_S: Final = 10.0
# One whose answer has begun may be a large one.
FLIGHT_MAX_S: Final = 120.0


class SingleFlight(Generic[_T]):
    """At most one call at a time. Whoever joins while it flies gets its answer; a wait that ends does not end it.

    `call` is handed an event to set when its answer has begun to arrive.
    """

    def __init__(self, call: Callable[[asyncio.Event], Awaitable[_T]], name: str) -> None:
        self._call = call
        self._name = name
        self._task: asyncio.Task[_T] | None = None
        self._begun = asyncio.Event()
        self._sent_at = 0.0

    async def join(self, timeout_s: float, *, then_s: float = 0.0) -> _T:
        """The answer, or the call's error. Raises `TimeoutError` when there is none after `timeout_s`.

        An answer that has begun by then gets `then_s` more.
        """
        task = self._task
        # What came while nobody waited is old: ask again.
        if task is None or task.done() or self._is_unheard():
            task = self._send()
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done() and self._begun.is_set():
            await asyncio.wait({task}, timeout=then_s)
        if not task.done() or task.cancelled():
            raise TimeoutError(f"{self._name}: no answer within {timeout_s:g} s")
        return task.result()

    async def close(self) -> None:
        """End a call that still flies."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _is_unheard(self) -> bool:
        waited_s = asyncio.get_running_loop().time() - self._sent_at
        return not self._begun.is_set() and waited_s >= UNHEARD_MAX_S

    def _send(self) -> "asyncio.Task[_T]":
        if self._task is not None:
            self._task.cancel()
        self._begun = asyncio.Event()
        self._sent_at = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._fly(self._begun), name=self._name)
        self._task.add_done_callback(_look_at)
        return self._task

    async def _fly(self, begun: asyncio.Event) -> _T:
        async with asyncio.timeout(FLIGHT_MAX_S):
            return await self._call(begun)


def _look_at(task: "asyncio.Task[_T]") -> None:
    """A call that nobody waits for any more may fail unheard."""
    if not task.cancelled():
        task.exception()
