"""Play a scenario: step after step, until the first that does not hold."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from agentd.errors import AgentdError
from agentd.simulator.scenario import actions, subjects
from agentd.simulator.scenario.file import Scenario, Step
from agentd.simulator.scenario.stage import Stage

LOOK_S = 0.02
LAST_LINES = 12
_PATIENT = frozenset({"exit", "file", "hooks", "snapshot", "calls", "coderd", "agent", "log"})
"""Subjects that may still change when the daemon has ended; nobody else answers for it any more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a scenario ended. `failed` is the step that did not hold (None: all did), `why` says what differed."""

    scenario: Scenario
    seconds: float
    failed: Step | None = None
    why: str = ""

    @property
    def holds(self) -> bool:
        return self.failed is None


class StepFailed(AgentdError):
    """A step did not hold."""


async def play(
    scenario: Scenario, home: Path, *, tell: Callable[[Step], None] = lambda _step: None
) -> Verdict:
    """Play `scenario` in the empty directory `home`; `tell` is called with each step that held."""
    began = time.monotonic()
    async with Stage(scenario, home) as stage:
        for step in scenario.steps:
            try:
                await asyncio.sleep(step.after_s)
                await _one(stage, step)
            except (AgentdError, aiohttp.ClientError, KeyError, TypeError, ValueError, OSError) as wrong:
                why = _words(wrong)
                # A ChildError brings the lines along.
                context = "" if "\n" in why else _context(stage)
                return Verdict(scenario, time.monotonic() - began, step, why + context)
            finally:
                _write_logs(stage)
            tell(step)
    return Verdict(scenario, time.monotonic() - began)


async def _one(stage: Stage, step: Step) -> None:
    fields = stage.filled(step.fields)
    wrong: str | None = None
    try:
        async with asyncio.timeout(step.within_s):
            if step.verb == "do":
                await actions.act(stage, step.what, fields)
                return
            while (wrong := await subjects.differs(stage, step.what, fields)) is not None:
                if step.verb == "expect":
                    raise StepFailed(wrong)
                await _before_the_next_look(stage, step, wrong)
    except TimeoutError:
        raise StepFailed(f"{wrong or 'no answer'} (after {step.within_s:g} s)") from None


async def _before_the_next_look(stage: Stage, step: Step, wrong: str) -> None:
    over = step.what not in _PATIENT and stage.daemon is not None and not stage.daemon.running
    if over:
        raise StepFailed(f"{wrong} (the daemon has ended)")
    await asyncio.sleep(LOOK_S)


def _words(wrong: Exception) -> str:
    if isinstance(wrong, KeyError):
        return f"{wrong.args[0]}: missing"
    return str(wrong) if isinstance(wrong, AgentdError) else repr(wrong)


def _context(stage: Stage) -> str:
    """What the daemon said last: where to look first."""
    if stage.daemon is None or not stage.daemon.lines:
        return ""
    lines = "".join(
        f"\n    {json.dumps(line, ensure_ascii=False)}" for line in stage.daemon.lines[-LAST_LINES:]
    )
    return f"\n  the daemon's last lines:{lines}"


def _write_logs(stage: Stage) -> None:
    """Leave the daemons' log lines in the home, for who keeps it."""
    for number, daemon in enumerate(stage.daemons, 1):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in daemon.lines)
        (stage.home / f"daemon-{number}.log").write_text(text, encoding="utf-8")
