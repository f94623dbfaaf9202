"""Keeps a background task running: an unexpected exception is logged, and the task starts again after a pause.

So a defect in one component does not end the others, nor the daemon with the claim hook that it runs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from agentd import log
from agentd.backoff import Backoff
from agentd.clock import Clock

GOOD_RUN_S: Final = 60.0
"""A run that lasted this long resets the backoff."""


class TaskReturnedError(RuntimeError):
    """A task returned that must run until it is cancelled."""


async def keep_running(name: str, run: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Await `run()` until cancelled. If it raises an `Exception` or returns, log that and call it again.

    The pauses grow to 60 s. Consecutive failures with the same text are logged once, with their traceback.
    """
    backoff = Backoff(first_s=1.0, cap_s=60.0, floor_s=0.5)
    logged = ""
    while True:
        began = clock.monotonic()
        try:
            await run()
            raise TaskReturnedError("the task returned; it must run until cancelled")
        except Exception as exc:  # noqa: BLE001 - a defect of one component must not end the others; it is logged
            if clock.monotonic() - began >= GOOD_RUN_S:
                backoff.reset()
                logged = ""
            pause_s = backoff.next()
            if repr(exc) != logged:
                retry_in_s = round(pause_s, 1)
                log.get("daemon").error(
                    "agentd.task_failed", task=name, error=str(exc), retry_in_s=retry_in_s, exc_info=exc
                )
            logged = repr(exc)
        await clock.sleep(pause_s)


def start(name: str, run: Callable[[], Awaitable[None]], clock: Clock) -> "asyncio.Task[None]":
    """A task with this name that keeps running until it is cancelled."""
    return asyncio.create_task(keep_running(name, run, clock), name=name)
