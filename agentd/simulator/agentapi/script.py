"""A conversation with timings, as data: what the agent says and does, and how long after the step before.

A step is a table with `after_s` (seconds, default 0) and exactly one of: `status` ("running" or "stable"),
`message` (with `role`, default "agent"), `rewrite` (the last message's new text), `append` (text at its end),
`error` (with `level`), `transcript` (a file that replaces the conversation).
"""

import asyncio
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentd.simulator.faults import SimulatorError

if TYPE_CHECKING:
    from agentd.simulator.agentapi.server import SimulatedAgentApi

_ACTS: dict[str, Callable[["SimulatedAgentApi", Mapping[str, Any]], object]] = {
    "status": lambda agent, step: agent.set_status(step["status"]),
    "message": lambda agent, step: agent.add_message(step.get("role", "agent"), step["message"]),
    "rewrite": lambda agent, step: agent.rewrite_last(step["rewrite"]),
    "append": lambda agent, step: agent.rewrite_last(
        agent.conversation.messages[-1]["content"] + step["append"]
    ),
    "error": lambda agent, step: agent.agent_error(step["error"], step.get("level", "error")),
    "transcript": lambda agent, step: agent.load(Path(step["transcript"])),
}
_EXTRAS = frozenset({"after_s", "role", "level"})


def check(steps: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps, if each is one. Raises `SimulatorError` that names the first that is not."""
    checked = list(steps)
    for number, step in enumerate(checked, 1):
        where = f"script step {number}"
        if not isinstance(step, Mapping):
            raise SimulatorError(f"{where}: a table was expected")
        acts = [name for name in step if name in _ACTS]
        unknown = sorted(set(step) - set(_ACTS) - _EXTRAS)
        if unknown or len(acts) != 1:
            raise SimulatorError(
                f"{where}: {'unknown ' + ', '.join(unknown) if unknown else 'one act was expected'}",
                hint=f"one of {', '.join(_ACTS)}, beside {', '.join(sorted(_EXTRAS))}",
            )
        if not isinstance(step[acts[0]], str):
            raise SimulatorError(f"{where}: {acts[0]} is a text")
        if acts == ["status"] and step["status"] not in ("running", "stable"):
            raise SimulatorError(f"{where}: no status {step['status']!r}", hint="running or stable")
        if not isinstance(step.get("after_s", 0), (int, float)):
            raise SimulatorError(f"{where}: after_s is a number of seconds")
    return checked


def load(path: Path) -> list[Mapping[str, Any]]:
    """The `[[script]]` tables of a TOML file. Raises `SimulatorError`."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise SimulatorError(f"script {path}: {wrong}") from None
    if set(given) != {"script"} or not isinstance(given["script"], list):
        raise SimulatorError(f"script {path}: [[script]] tables were expected, and nothing else")
    return check(given["script"])


async def play(
    agent: "SimulatedAgentApi",
    steps: Iterable[Mapping[str, Any]],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Do one step after the other, each `after_s` after the one before."""
    for step in steps:
        await sleep(step.get("after_s", 0))
        name = next(name for name in step if name in _ACTS)
        _ACTS[name](agent, step)
