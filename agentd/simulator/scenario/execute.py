"""Executes the steps of a scenario in order, until one fails."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from agentd.errors import AgentdError
from agentd.simulator.scenario import actions, subjects
from agentd.simulator.scenario.definition import Scenario, ScenarioStep
from agentd.simulator.scenario.run import ScenarioRun

POLL_S: Final = 0.02
_INDEPENDENT: Final = frozenset({"exit", "file", "hooks", "snapshot", "calls", "coderd", "agent", "log"})
"""Subjects that may still change after the daemon has exited. The others need its local API."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a scenario.

    `failed` is the failed step (None: the scenario passed), `why` the difference.
    """

    scenario: Scenario
    seconds: float
    failed: ScenarioStep | None = None
    why: str = ""

    @property
    def passed(self) -> bool:
        return self.failed is None


class StepFailedError(AgentdError):
    """A step of a scenario failed."""


OnStep = Callable[[ScenarioStep], Awaitable[object]]


async def execute(scenario: Scenario, home: Path, *, on_step: OnStep | None = None) -> Verdict:
    """Run `scenario` in the empty directory `home`. `on_step` is called after each step that succeeded."""
    async with ScenarioRun(scenario, home) as run:
        return await execute_steps(run, on_step=on_step)


async def execute_steps(run: ScenarioRun, *, on_step: OnStep | None = None) -> Verdict:
    """As `execute`, for a run that has started."""
    started = time.monotonic()
    for step in run.scenario.steps:
        try:
            await asyncio.sleep(step.after_s)
            await _execute_step(run, step)
        except (AgentdError, aiohttp.ClientError, KeyError, TypeError, ValueError, OSError) as exc:
            why = _reason(exc)
            # The text of a ChildError has these lines already.
            context = "" if "\n" in why else _log_context(run)
            return Verdict(run.scenario, time.monotonic() - started, step, why + context)
        finally:
            for number, daemon in enumerate(run.daemons, 1):
                daemon.write_log(run.home / f"daemon-{number}.log")
        if on_step is not None:
            await on_step(step)
    return Verdict(run.scenario, time.monotonic() - started)


async def _execute_step(run: ScenarioRun, step: ScenarioStep) -> None:
    """Raises `StepFailedError` when an expectation is not met, and what the action raises."""
    fields = run.fill(step.fields)
    difference: str | None = None
    try:
        async with asyncio.timeout(step.within_s):
            if step.verb == "do":
                await actions.perform(run, step.what, fields)
                return
            while (difference := await subjects.compare(run, step.what, fields)) is not None:
                if step.verb == "expect":
                    raise StepFailedError(difference)
                if step.what not in _INDEPENDENT and run.daemon is not None and not run.daemon.running:
                    raise StepFailedError(f"{difference} (the daemon has exited)")
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise StepFailedError(f"{difference or 'no answer'} (after {step.within_s:g} s)") from None


def _reason(exc: Exception) -> str:
    if isinstance(exc, KeyError):
        return f"{exc.args[0]}: missing"
    return str(exc) if isinstance(exc, AgentdError) else repr(exc)


def _log_context(run: ScenarioRun) -> str:
    """The last lines of the daemon's log, for the report of a failed step."""
    lines = run.daemon.last_lines() if run.daemon is not None else ""
    return f"\n  the daemon's last log lines:{lines}" if lines else ""
