"""Deduplicate concurrent calls of one kind: all callers share one request."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")

# A request without the first byte of an answer is cancelled after this time and sent again, in case the server forgot
# it: a host that vanished sends no reset. A turn of minutes then leaves six blocked requests a minute, not sixty.
UNANSWERED_MAX_S: Final = 10.0
# The limit for a whole call; a large answer takes long.
CALL_MAX_S: Final = 120.0


class SingleFlight(Generic[_T]):
    """At most one call at a time. A caller that joins a running call gets its result; its own timeout does not end it.

    `call` gets an event to set when the first byte of its answer has arrived.
    """

    def __init__(self, call: Callable[[asyncio.Event], Awaitable[_T]], name: str) -> None:
        self._call = call
        self._name = name
        self._task: asyncio.Task[_T] | None = None
        self._begun = asyncio.Event()
        self._sent_at = 0.0

    async def join(self, timeout_s: float, *, then_s: float = 0.0, fresh: bool = False) -> _T:
        """The result of the call, or its exception. Raises `TimeoutError` if there is neither after `timeout_s`.

        If the answer has begun by then, the limit is `then_s` longer. `fresh`: a call that runs already does not count,
        because its answer may be older than now; the call starts after its end.
        """
        if fresh and self._task is not None and not self._task.done() and not self._is_unanswered():
            began = asyncio.get_running_loop().time()
            old = self._task
            await asyncio.wait({old}, timeout=timeout_s)
            if self._task is old and not old.done():
                raise TimeoutError(f"{self._name}: no answer within {timeout_s:g} s")
            timeout_s = max(0.0, timeout_s - (asyncio.get_running_loop().time() - began))
        task = self._task
        # A result that arrived while no caller waited is stale.
        if task is None or task.done() or self._is_unanswered():
            task = self._send()
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done() and self._begun.is_set():
            await asyncio.wait({task}, timeout=then_s)
        if not task.done() or task.cancelled():
            raise TimeoutError(f"{self._name}: no answer within {timeout_s:g} s")
        return task.result()

    async def close(self) -> None:
        """Cancel a running call."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _is_unanswered(self) -> bool:
        waited_s = asyncio.get_running_loop().time() - self._sent_at
        return not self._begun.is_set() and waited_s >= UNANSWERED_MAX_S

    def _send(self) -> "asyncio.Task[_T]":
        if self._task is not None:
            self._task.cancel()
        self._begun = asyncio.Event()
        self._sent_at = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._run(self._begun), name=self._name)
        self._task.add_done_callback(_retrieve_exception)
        return self._task

    async def _run(self, begun: asyncio.Event) -> _T:
        async with asyncio.timeout(CALL_MAX_S):
            return await self._call(begun)


def _retrieve_exception(task: "asyncio.Task[_T]") -> None:
    """Keep asyncio from logging the exception of a call that no caller waits for any more."""
    if not task.cancelled():
        task.exception()
