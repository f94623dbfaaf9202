"""An agent script: a conversation with timings.

A step is a table with `after_s` (seconds after the previous step, default 0) and exactly one of: `status`
("running" or "stable"), `message` (with `role`, default "agent"), `rewrite` (the last message's new text),
`append` (text added to the last message), `error` (with `level`), `transcript` (a file that replaces the
conversation).
"""

import asyncio
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from agentd.simulator.agentapi.server import SimulatedAgentApi
from agentd.simulator.faults import SimulatorError

ACTIONS: Final[Mapping[str, Callable[[SimulatedAgentApi, Mapping[str, Any]], object]]] = {
    "status": lambda agent, step: agent.set_status(step["status"]),
    "message": lambda agent, step: agent.add_message(step.get("role", "agent"), step["message"]),
    "rewrite": lambda agent, step: agent.rewrite_last(step["rewrite"]),
    "append": lambda agent, step: agent.rewrite_last(
        agent.conversation.messages[-1]["content"] + step["append"]
    ),
    "error": lambda agent, step: agent.agent_error(step["error"], step.get("level", "error")),
    "transcript": lambda agent, step: agent.load(Path(step["transcript"])),
}
_OPTIONS: Final = frozenset({"after_s", "role", "level"})


def check(steps: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the steps if all are valid. Raises `SimulatorError` with the number of the first invalid one."""
    checked = list(steps)
    for number, step in enumerate(checked, 1):
        where = f"script step {number}"
        if not isinstance(step, Mapping):
            raise SimulatorError(f"{where}: {step!r} is not a table")
        actions = [name for name in step if name in ACTIONS]
        unknown = sorted(set(step) - set(ACTIONS) - _OPTIONS)
        if unknown or len(actions) != 1:
            raise SimulatorError(
                f"{where}: {'unknown ' + ', '.join(unknown) if unknown else 'exactly one action is required'}",
                hint=f"the actions are {', '.join(ACTIONS)}; the options {', '.join(sorted(_OPTIONS))}",
            )
        name = actions[0]
        if not isinstance(step[name], str):
            raise SimulatorError(f"{where}: {name}: {step[name]!r} is not a string")
        if name == "status" and step["status"] not in ("running", "stable"):
            raise SimulatorError(f"{where}: unknown status {step['status']!r}", hint="use running or stable")
        if not isinstance(step.get("after_s", 0), (int, float)):
            raise SimulatorError(f"{where}: after_s: {step['after_s']!r} is not a number of seconds")
    return checked


def load(path: Path) -> list[Mapping[str, Any]]:
    """Read the `[[script]]` tables of a TOML file. Raises `SimulatorError`."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise SimulatorError(f"script {path}: {exc}") from None
    if set(given) != {"script"} or not isinstance(given["script"], list):
        raise SimulatorError(f"script {path}: the file must contain [[script]] tables and nothing else")
    return check(given["script"])


async def play(
    agent: SimulatedAgentApi,
    steps: Iterable[Mapping[str, Any]],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Run the steps in order, each `after_s` after the previous one."""
    for step in steps:
        await sleep(step.get("after_s", 0))
        name = next(name for name in step if name in ACTIONS)
        ACTIONS[name](agent, step)
