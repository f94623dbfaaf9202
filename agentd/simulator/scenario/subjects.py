"""The subjects of `wait` and `expect`. Each returns a value, which is compared with the step's fields."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import aiohttp

from agentd.simulator.scenario.matching import mismatch
from agentd.simulator.scenario.run import ScenarioRun

Fields: TypeAlias = Mapping[str, Any]
Subject: TypeAlias = Callable[[ScenarioRun, Fields], Awaitable[object]]


def names() -> frozenset[str]:
    """The names of all subjects."""
    return frozenset(_SUBJECTS)


async def compare(run: ScenarioRun, name: str, fields: Fields) -> str | None:
    """None when the subject `name` matches the fields now, else the difference."""
    parameters, subject = _SUBJECTS[name]
    wanted = {key: value for key, value in fields.items() if key not in parameters}
    if name == "log":
        wanted = {"times": fields.get("times", {"at_least": 1})}
    return mismatch(await subject(run, fields), wanted)


async def _status(run: ScenarioRun, _fields: Fields) -> object:
    return await _local(run, "/v1/status")


async def _claims(run: ScenarioRun, _fields: Fields) -> object:
    answer = await _local(run, "/v1/claims")
    claims = answer["claims"] if isinstance(answer, dict) else []
    return {"count": len(claims), "states": [claim.get("state") for claim in claims]}


async def _ready(run: ScenarioRun, _fields: Fields) -> object:
    return await _local(run, "/readyz")


async def _log(run: ScenarioRun, fields: Fields) -> object:
    wanted = {key: value for key, value in fields.items() if key != "times"}
    lines = run.require_daemon().lines[run.mark :]
    return {"times": sum(mismatch(line, wanted) is None for line in lines)}


async def _exit(run: ScenarioRun, _fields: Fields) -> object:
    return {"code": await run.require_daemon().ended()}


async def _hooks(run: ScenarioRun, _fields: Fields) -> object:
    return {"runs": run.hook_runs, "count": len(run.hook_runs)}


async def _snapshot(run: ScenarioRun, _fields: Fields) -> object:
    stored = run.coderd.snapshots.get(run.task_id)
    messages = stored.envelope["data"]["messages"] if stored else []
    return {
        "stored": stored is not None,
        "bytes": len(stored.body) if stored else 0,
        "messages": len(messages),
        "contents": [message["content"] for message in messages],
        "last": messages[-1]["content"] if messages else None,
    }


async def _calls(run: ScenarioRun, fields: Fields) -> object:
    statuses = [call.status for call in run.coderd.calls(fields["route"])]
    return {"count": len(statuses), "statuses": statuses, "last": statuses[-1] if statuses else None}


async def _coderd(run: ScenarioRun, _fields: Fields) -> object:
    """`/_sim/state`, where builds and statuses are those of the scenario's workspace."""
    return {
        **run.coderd_control.state(),
        "streams": run.coderd.open_streams(run.workspace),
        "builds": [
            f"{build.transition} {build.stage.name.lower()} {build.job}" for build in run.workspace.builds
        ],
        "statuses": [row.state for row in run.coderd.app_statuses[run.workspace.id]],
        "notifications": [one.template for one in run.coderd.notifications],
    }


async def _agent(run: ScenarioRun, _fields: Fields) -> object:
    return {
        "status": run.agent.conversation.status,
        "messages": len(run.agent.conversation.messages),
        "received": [one["content"] for one in run.agent.received],
        "followers": run.agent.followers,
        "playing": run.playing,
    }


async def _command(run: ScenarioRun, _fields: Fields) -> object:
    result = run.command
    return None if result is None else {"code": result.code, "out": result.out, "err": result.err}


async def _answer(run: ScenarioRun, _fields: Fields) -> object:
    return run.answer


async def _file(run: ScenarioRun, fields: Fields) -> object:
    path = run.path(fields["path"])
    return {"exists": path.exists(), "text": path.read_text(errors="replace") if path.is_file() else None}


async def _local(run: ScenarioRun, route: str) -> object:
    """The answer of the local API; None while it is unreachable."""
    try:
        return await run.require_daemon().ask(route)
    except (aiohttp.ClientError, OSError):
        return None


_NONE: Final[frozenset[str]] = frozenset()
_SUBJECTS: Final[dict[str, tuple[frozenset[str], Subject]]] = {
    "status": (_NONE, _status),
    "claims": (_NONE, _claims),
    "ready": (_NONE, _ready),
    "log": (_NONE, _log),
    "exit": (_NONE, _exit),
    "hooks": (_NONE, _hooks),
    "snapshot": (_NONE, _snapshot),
    "calls": (frozenset({"route"}), _calls),
    "coderd": (_NONE, _coderd),
    "agent": (_NONE, _agent),
    "command": (_NONE, _command),
    "answer": (_NONE, _answer),
    "file": (frozenset({"path"}), _file),
}
