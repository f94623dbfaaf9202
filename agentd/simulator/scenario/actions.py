"""What a scenario can do: the daemon as its operator would, the peers through the commands of their `/_sim/` door."""

import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from agentd.simulator import admin
from agentd.simulator.agentapi.admin import Admin as AgentAdmin
from agentd.simulator.coderd.admin import Admin as CoderdAdmin
from agentd.simulator.faults import SimulatorError
from agentd.simulator.scenario.stage import Stage

Fields: TypeAlias = Mapping[str, Any]
Act: TypeAlias = Callable[[Stage, Fields], Awaitable[None]]


def names() -> frozenset[str]:
    """Every act by the name a file calls it."""
    doors = [f"coderd.{name}" for name in CoderdAdmin.COMMANDS] + [
        f"agent.{name}" for name in AgentAdmin.COMMANDS
    ]
    return frozenset([*_ACTS, *doors])


async def act(stage: Stage, what: str, fields: Fields) -> None:
    """Do `what`. Raises `SimulatorError` (or what a wrong field raises) when it cannot be done."""
    if what in _ACTS:
        allowed, one = _ACTS[what]
        unknown = sorted(set(fields) - allowed)
        if unknown:
            raise SimulatorError(
                f"{what} takes no {', '.join(unknown)}", hint=f"it takes {', '.join(allowed) or 'nothing'}"
            )
        await one(stage, fields)
        return
    peer, _, command = what.partition(".")
    door = stage.coderd_door if peer == "coderd" else stage.agent_door
    await admin.carry_out(door.commands, command, fields)


async def _start(stage: Stage, fields: Fields) -> None:
    daemon = await stage.launch(fields.get("env", {}), tuple(fields.get("args", ())))
    if fields.get("ready", True):
        await daemon.log("agentd.started")


async def _stop(stage: Stage, _fields: Fields) -> None:
    await stage.require_daemon().stop()


async def _kill(stage: Stage, _fields: Fields) -> None:
    await stage.require_daemon().kill()


async def _signal(stage: Stage, fields: Fields) -> None:
    stage.require_daemon().signal(signal.Signals[f"SIG{fields['signal']}"])


async def _type(stage: Stage, fields: Fields) -> None:
    await stage.type(list(fields["words"]), fields.get("env", {}))


async def _ask(stage: Stage, fields: Fields) -> None:
    daemon = stage.require_daemon()
    stage.answer = await daemon.ask(
        fields["route"], method=fields.get("method", "GET"), body=fields.get("body")
    )


async def _mark(stage: Stage, _fields: Fields) -> None:
    stage.mark = len(stage.require_daemon().lines)


async def _write(stage: Stage, fields: Fields) -> None:
    path = stage.path(fields["path"])
    path.write_text(fields.get("text", ""), encoding="utf-8")
    path.chmod(int(fields.get("mode", "600"), 8))


async def _remove(stage: Stage, fields: Fields) -> None:
    stage.path(fields["path"]).unlink()


async def _hook(stage: Stage, fields: Fields) -> None:
    stage.write_hook(fields["name"], fields["script"])


async def _exchange(stage: Stage, fields: Fields) -> None:
    await stage.exchange_coderd(fields)


async def _manifest(stage: Stage, _fields: Fields) -> None:
    stage.manifest.fetch_manifest()


async def _play(stage: Stage, _fields: Fields) -> None:
    stage.play_script()


async def _restart_agent(stage: Stage, _fields: Fields) -> None:
    await stage.agent.restart()
    stage.agent_up = True


def _turn(peer: str, *, up: bool) -> Act:
    async def turn(stage: Stage, _fields: Fields) -> None:
        await stage.set_up(peer, up=up)

    return turn


_NONE: frozenset[str] = frozenset()
_ACTS: dict[str, tuple[frozenset[str], Act]] = {
    "daemon.start": (frozenset({"env", "args", "ready"}), _start),
    "daemon.stop": (_NONE, _stop),
    "daemon.kill": (_NONE, _kill),
    "daemon.signal": (frozenset({"signal"}), _signal),
    "daemon.ask": (frozenset({"route", "method", "body"}), _ask),
    "command": (frozenset({"words", "env"}), _type),
    "mark": (_NONE, _mark),
    "write": (frozenset({"path", "text", "mode"}), _write),
    "remove": (frozenset({"path"}), _remove),
    "hook": (frozenset({"name", "script"}), _hook),
    "coderd.up": (_NONE, _turn("coderd", up=True)),
    "coderd.down": (_NONE, _turn("coderd", up=False)),
    "coderd.exchange": (frozenset({"era", "build_version", "enable_tasks", "rate_limit"}), _exchange),
    "agent.up": (_NONE, _turn("agent", up=True)),
    "agent.down": (_NONE, _turn("agent", up=False)),
    "agent.restart": (_NONE, _restart_agent),
    "agent.play": (_NONE, _play),
    "agent.manifest": (_NONE, _manifest),
}
