"""Runs the hooks of events other than a claim: the agent is idle, busy or waiting, agentd stops.

These hooks are notifications. No run is recorded; a failed run is logged and not retried; a run that agentd's
end interrupts is not repeated. Work that must happen at least once belongs in `on-claim.d`.
"""

import asyncio
import enum
import secrets
from collections.abc import Callable
from pathlib import Path

from agentd import log
from agentd.clock import Clock
from agentd.hooks.directory import HookDirectoryError, list_hooks
from agentd.hooks.run import HookPolicy, HookRun, HookSurvivedError
from agentd.metrics import Registry


class HookEvent(enum.StrEnum):
    """An event with hooks in `on-<event>.d`. The hooks get its value as `AGENTD_REASON`."""

    STABLE = "stable"
    BUSY = "busy"
    WAITING = "waiting"
    STOP = "stop"


class EventHooks:
    """Runs the hooks of one event at a time and coalesces the triggers that arrive during a run.

    An event is queued at most once, in the order of the last triggers: the last run is for the present state.
    `agent` returns the kind of the agent and the id of its current session, "" if that is not known.
    """

    def __init__(
        self,
        *,
        policy: HookPolicy,
        workspace_id: Callable[[], str | None],
        agent: Callable[[], tuple[str, str]],
        clock: Clock,
        metrics: Registry,
    ) -> None:
        self._policy = policy
        self._workspace_id = workspace_id
        self._agent = agent
        self._clock = clock
        self._queued: dict[HookEvent, None] = {}
        self._triggered = asyncio.Event()
        self._last: HookEvent | None = None
        self._runs = metrics.counter(
            "agentd_occasion_hook_runs_total",
            "Runs of the hooks of events other than a claim.",
            "occasion",
            "outcome",
        )
        self._log = log.get("hooks")

    def trigger(self, event: HookEvent) -> None:
        """Queue one run of the event's hooks, unless the last triggered event is the same and `forget_last` was not called."""
        if event is self._last:
            return
        self._last = event
        self._queued.pop(event, None)
        self._queued[event] = None
        self._triggered.set()

    def forget_last(self) -> None:
        """The agent has a status without hooks. The next event is a new one, also if it is the last one again."""
        self._last = None

    async def run(self) -> None:
        """Run the hooks of queued events until cancelled, then end the running hook."""
        while True:
            await self._triggered.wait()
            while self._queued:
                event = next(iter(self._queued))
                del self._queued[event]
                await self._run_all(event)
            self._triggered.clear()

    async def run_stop_hooks(self, within_s: float) -> None:
        """Run the on-stop hooks, after `run` was cancelled. End them after `within_s` seconds."""
        try:
            async with self._clock.timeout(max(0.0, within_s - self._policy.stop_grace_s)):
                await self._run_all(HookEvent.STOP)
        except TimeoutError:
            self._log.warning("hook.cut_off", occasion=HookEvent.STOP.value, after_s=round(within_s, 1))

    async def _run_all(self, event: HookEvent) -> None:
        folder = self._policy.hooks_dir / f"on-{event}.d"
        try:
            found = await asyncio.to_thread(list_hooks, folder)
        except HookDirectoryError as exc:
            self._log.error("hooks.unusable", occasion=event.value, error=str(exc))
            return
        for name, why in found.skipped:
            self._log.warning("hook.passed_over", file=name, reason=why)
        for name in found.names:
            await self._run_one(event, folder / name)

    async def _run_one(self, event: HookEvent, path: Path) -> None:
        facts = {"occasion": event.value, "hook": path.name}
        kind, session = self._agent()
        env = {
            **self._policy.environment(
                hook=path.name,
                reason=event.value,
                workspace_id=self._workspace_id(),
                run_id=secrets.token_hex(12),
            ),
            "AGENTD_AGENT": kind,
            "AGENTD_SESSION_ID": session,
        }
        try:
            result = await HookRun(path, policy=self._policy, env=env, clock=self._clock).execute()
        except HookSurvivedError as exc:
            self._runs.inc(occasion=event.value, outcome="survived")
            self._log.error("hook.survived_kill", **facts, error=str(exc))
            return
        except asyncio.CancelledError:
            self._runs.inc(occasion=event.value, outcome="interrupted")
            raise
        self._runs.inc(occasion=event.value, outcome=result.outcome.value)
        result.log(self._log, **facts)
