"""The actions of a scenario: operations on the daemon and on files, and the peers' control commands."""

import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

from agentd.simulator.agentapi.control import AgentControl
from agentd.simulator.coderd.control import CoderdControl
from agentd.simulator.faults import SimulatorError
from agentd.simulator.scenario.run import ScenarioRun

Fields: TypeAlias = Mapping[str, Any]
Action: TypeAlias = Callable[[ScenarioRun, Fields], Awaitable[None]]


def names() -> frozenset[str]:
    """The names of all actions."""
    commands = [f"coderd.{name}" for name in CoderdControl.COMMANDS]
    commands += [f"agent.{name}" for name in AgentControl.COMMANDS]
    return frozenset([*ACTIONS, *commands])


async def perform(run: ScenarioRun, name: str, fields: Fields) -> None:
    """Perform the action `name`.

    Raises `SimulatorError` when it is impossible, and KeyError for a missing field.
    """
    if name in ACTIONS:
        allowed, action = ACTIONS[name]
        unknown = sorted(set(fields) - allowed)
        if unknown:
            raise SimulatorError(
                f"{name}: unknown field {', '.join(unknown)}",
                hint=f"known: {', '.join(sorted(allowed)) or 'none'}",
            )
        await action(run, fields)
        return
    peer, _, command = name.partition(".")
    await (run.coderd_control if peer == "coderd" else run.agent_control).run(command, fields)


async def _start(run: ScenarioRun, fields: Fields) -> None:
    daemon = await run.start_daemon(fields.get("env", {}), tuple(fields.get("args", ())))
    if fields.get("ready", True):
        await daemon.log("agentd.started")


async def _stop(run: ScenarioRun, _fields: Fields) -> None:
    await run.require_daemon().stop()


async def _kill(run: ScenarioRun, _fields: Fields) -> None:
    await run.require_daemon().kill()


async def _signal(run: ScenarioRun, fields: Fields) -> None:
    run.require_daemon().signal(signal.Signals[f"SIG{fields['signal']}"])


async def _command(run: ScenarioRun, fields: Fields) -> None:
    await run.run_command(list(fields["words"]), fields.get("env", {}))


async def _ask(run: ScenarioRun, fields: Fields) -> None:
    daemon = run.require_daemon()
    run.answer = await daemon.ask(
        fields["route"], method=fields.get("method", "GET"), body=fields.get("body")
    )


async def _mark(run: ScenarioRun, _fields: Fields) -> None:
    run.mark = len(run.require_daemon().lines)


async def _write(run: ScenarioRun, fields: Fields) -> None:
    path = run.path(fields["path"])
    path.write_text(fields.get("text", ""), encoding="utf-8")
    path.chmod(int(fields.get("mode", "600"), 8))


async def _remove(run: ScenarioRun, fields: Fields) -> None:
    run.path(fields["path"]).unlink()


async def _hook(run: ScenarioRun, fields: Fields) -> None:
    run.write_hook(fields["name"], fields["script"])


async def _exchange(run: ScenarioRun, fields: Fields) -> None:
    await run.replace_coderd(fields)


async def _manifest(run: ScenarioRun, _fields: Fields) -> None:
    run.manifest.fetch_manifest()


async def _play(run: ScenarioRun, _fields: Fields) -> None:
    run.play_script()


async def _restart_agent(run: ScenarioRun, _fields: Fields) -> None:
    await run.agent.restart()


def _listen(peer: str, *, up: bool) -> Action:
    async def set_listening(run: ScenarioRun, _fields: Fields) -> None:
        await run.set_listening(peer, up=up)

    return set_listening


_NONE: Final[frozenset[str]] = frozenset()
ACTIONS: Final[Mapping[str, tuple[frozenset[str], Action]]] = {
    "daemon.start": (frozenset({"env", "args", "ready"}), _start),
    "daemon.stop": (_NONE, _stop),
    "daemon.kill": (_NONE, _kill),
    "daemon.signal": (frozenset({"signal"}), _signal),
    "daemon.ask": (frozenset({"route", "method", "body"}), _ask),
    "command": (frozenset({"words", "env"}), _command),
    "mark": (_NONE, _mark),
    "write": (frozenset({"path", "text", "mode"}), _write),
    "remove": (frozenset({"path"}), _remove),
    "hook": (frozenset({"name", "script"}), _hook),
    "coderd.up": (_NONE, _listen("coderd", up=True)),
    "coderd.down": (_NONE, _listen("coderd", up=False)),
    "coderd.exchange": (frozenset({"era", "build_version", "enable_tasks", "rate_limit"}), _exchange),
    "agent.up": (_NONE, _listen("agent", up=True)),
    "agent.down": (_NONE, _listen("agent", up=False)),
    "agent.restart": (_NONE, _restart_agent),
    "agent.play": (_NONE, _play),
    "agent.manifest": (_NONE, _manifest),
}
"""Name → its fields, and its function. The commands of the peers are not listed here."""
