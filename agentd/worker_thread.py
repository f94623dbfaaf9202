"""A thread for blocking calls that may never return, such as an fsync on a hung disk.

`asyncio.to_thread` and `ThreadPoolExecutor` are not used for such calls: the interpreter joins their threads when it
ends, so one hung call would keep the process alive until SIGKILL.
"""

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

_Calls = SimpleQueue[Callable[[], None] | None]


class WorkerThread:
    """One daemon thread that runs calls in the order of their submission. It ends at `close` or with this object."""

    def __init__(self, name: str) -> None:
        self._calls: _Calls = SimpleQueue()
        self._closed = False
        # Started now: later the process may have reached its limit of threads.
        self._thread = threading.Thread(target=_work, args=(self._calls,), name=name, daemon=True)
        self._thread.start()
        weakref.finalize(self, self._calls.put, None)

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        """Queue `call`. The future cannot be cancelled. Raises `RuntimeError` after `close`."""
        if self._closed:
            raise RuntimeError(f"thread {self._thread.name} is closed")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        self._calls.put(lambda: _resolve(future, call))
        return future

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call` in the thread and return its result. Cancellation stops the waiting, not the call."""
        return await asyncio.wrap_future(self.submit(call))

    def close(self, timeout_s: float) -> bool:
        """Accept no more calls and wait for the submitted ones, at most `timeout_s`. False if one still runs then."""
        self._closed = True
        self._calls.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


def _work(calls: _Calls) -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # it refers to the owner of this thread


def _resolve(future: "Future[T]", call: Callable[[], T]) -> None:
    try:
        result = call()
    except BaseException as exc:  # noqa: BLE001 - the caller raises it
        future.set_exception(exc)
    else:
        future.set_result(result)
