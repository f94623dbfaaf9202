"""Hooks that are told that something is so: the agent is idle, the agent is busy, agentd stops.

They are notifications: nothing of them is recorded, a failure is logged and not tried again, and a run that agentd's
own end cuts off is not made up for.  What must happen exactly once belongs in `on-claim.d`.
"""

import asyncio
import enum
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from agentd import log
from agentd.clock import Clock
from agentd.hooks.directory import HookDirectoryError, listing, untrusted_reason
from agentd.hooks.run import HookRun, HookSurvivedError, environment
from agentd.metrics import Registry
from agentd.proc import ProcessIdentity

__all__ = ["EventHooks", "HookEvent"]


class HookEvent(enum.StrEnum):
    """Its hooks are in `on-<occasion>.d`, and `AGENTD_REASON` names it."""

    STABLE = "stable"
    BUSY = "busy"
    STOP = "stop"


class EventHooks:
    """Runs them one at a time, whatever rings meanwhile.

    An occasion that comes up while hooks run is remembered once, at its latest place: however often it rings, that is
    one more run, and the last one to run is about what is so now.  `timeout_s` is for one hook, `stop_grace_s` lies
    between TERM and KILL of one that agentd's end cuts off.
    """

    def __init__(
        self,
        *,
        hooks_dir: Path,
        state_dir: Path,
        timeout_s: float,
        stop_grace_s: float,
        workspace_id: Callable[[], str | None],
        clock: Clock,
        metrics: Registry,
        environ: Mapping[str, str],
    ) -> None:
        self._hooks_dir = hooks_dir
        self._state_dir = state_dir
        self._timeout_s = timeout_s
        self._stop_grace_s = stop_grace_s
        self._workspace_id = workspace_id
        self._clock = clock
        self._environ = environ
        self._waiting: dict[HookEvent, None] = {}
        self._rung = asyncio.Event()
        self._last: HookEvent | None = None
        self._runs = metrics.counter(
            "agentd_occasion_hook_runs_total",
            "Runs of on-stable, on-busy and on-stop hooks.",
            "occasion",
            "outcome",
        )
        self._log = log.get("hooks")

    def trigger(self, occasion: HookEvent) -> None:
        """It is so now.  Said again before anything else was, it is no news."""
        if occasion is self._last:
            return
        self._last = occasion
        self._waiting.pop(occasion, None)
        self._waiting[occasion] = None
        self._rung.set()

    async def run(self) -> None:
        """Run what rings, for ever.  Cancelled, the running hook is ended within `stop_grace_s` and a moment."""
        while True:
            await self._rung.wait()
            while self._waiting:
                occasion = next(iter(self._waiting))
                del self._waiting[occasion]
                await self._all_of(occasion)
            self._rung.clear()

    async def stop(self, within_s: float) -> None:
        """Run the hooks of the stop, after `run` was cancelled, and end what is not done within `within_s`."""
        working = asyncio.create_task(self._all_of(HookEvent.STOP), name="on-stop hooks")
        timer = asyncio.create_task(self._time(within_s - self._stop_grace_s), name="end of on-stop hooks")
        try:
            await asyncio.wait({working, timer}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self._log.warning("hook.cut_off", occasion=HookEvent.STOP.value, after_s=round(within_s, 1))
        finally:
            timer.cancel()
            working.cancel()
            await asyncio.wait({working, timer})
        if not working.cancelled():
            working.result()

    async def _time(self, seconds: float) -> None:
        await self._clock.sleep(max(0.0, seconds))

    async def _all_of(self, occasion: HookEvent) -> None:
        folder = self._hooks_dir / f"on-{occasion}.d"
        try:
            found = await asyncio.to_thread(listing, folder)
        except HookDirectoryError as error:
            self._log.error("hooks.unusable", occasion=occasion.value, error=str(error))
            return
        for name, why in found.passed_over:
            self._log.warning("hook.passed_over", file=name, reason=why)
        for name in found.names:
            await self._one(occasion, folder / name)

    async def _one(self, occasion: HookEvent, path: Path) -> None:
        facts = {"occasion": occasion.value, "hook": path.name}
        distrust = await asyncio.to_thread(untrusted_reason, path)
        if distrust:
            self._runs.inc(occasion=occasion.value, outcome="refused")
            self._log.warning("hook.refused", **facts, reason=distrust)
            return
        run_id = secrets.token_hex(12)
        run = HookRun(
            path,
            env=environment(
                self._environ,
                hook=path.name,
                reason=occasion.value,
                workspace_id=self._workspace_id(),
                state_dir=self._state_dir,
                run_id=run_id,
            ),
            run_id=run_id,
            timeout_s=self._timeout_s,
            grace_s=self._stop_grace_s,
            stop_grace_s=self._stop_grace_s,
            clock=self._clock,
        )
        try:
            ended = await run.execute(_unrecorded)
        except HookSurvivedError as error:
            self._runs.inc(occasion=occasion.value, outcome="survived")
            self._log.error("hook.survived_kill", **facts, error=str(error))
            return
        except asyncio.CancelledError:
            self._runs.inc(occasion=occasion.value, outcome="interrupted")
            raise
        self._runs.inc(occasion=occasion.value, outcome=ended.outcome.value)
        if ended.succeeded:
            self._log.info("hook.succeeded", **facts)
        else:
            self._log.warning(f"hook.{ended.outcome}", **facts, reason=ended.why)


async def _unrecorded(_process: ProcessIdentity | None) -> None:
    """No ledger knows of these runs."""
