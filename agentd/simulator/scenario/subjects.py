"""What a scenario can look at: each subject gives one value, which the step's fields are compared with."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import aiohttp

from agentd.simulator.scenario.matching import mismatch
from agentd.simulator.scenario.stage import Stage

Fields: TypeAlias = Mapping[str, Any]
Subject: TypeAlias = Callable[[Stage, Fields], Awaitable[object]]


def names() -> frozenset[str]:
    """Every subject by the name a file calls it."""
    return frozenset(_SUBJECTS)


async def differs(stage: Stage, what: str, fields: Fields) -> str | None:
    """None when the subject is as the fields want it now, else what differs."""
    parameters, subject = _SUBJECTS[what]
    wanted = {key: value for key, value in fields.items() if key not in parameters}
    if what == "log":
        wanted = {"times": fields.get("times", {"at_least": 1})}
    return mismatch(await subject(stage, fields), wanted)


async def _status(stage: Stage, _fields: Fields) -> object:
    return await _local(stage, "/v1/status")


async def _claims(stage: Stage, _fields: Fields) -> object:
    answer = await _local(stage, "/v1/claims")
    claims = answer["claims"] if isinstance(answer, dict) else []
    return {"count": len(claims), "states": [claim.get("state") for claim in claims]}


async def _ready(stage: Stage, _fields: Fields) -> object:
    return await _local(stage, "/readyz")


async def _log(stage: Stage, fields: Fields) -> object:
    wanted = {key: value for key, value in fields.items() if key != "times"}
    lines = stage.require_daemon().lines[stage.mark :]
    return {"times": sum(mismatch(line, wanted) is None for line in lines)}


async def _exit(stage: Stage, _fields: Fields) -> object:
    return {"code": await stage.require_daemon().ended()}


async def _hooks(stage: Stage, _fields: Fields) -> object:
    return {"runs": stage.runs, "count": len(stage.runs)}


async def _snapshot(stage: Stage, _fields: Fields) -> object:
    stored = stage.coderd.snapshots.get(stage.task_id)
    messages = stored.envelope["data"]["messages"] if stored else []
    return {
        "stored": stored is not None,
        "bytes": len(stored.body) if stored else 0,
        "messages": len(messages),
        "contents": [message["content"] for message in messages],
        "last": messages[-1]["content"] if messages else None,
    }


async def _calls(stage: Stage, fields: Fields) -> object:
    calls = [call for call in stage.coderd.requests if call.route == fields["route"]]
    statuses = [call.status for call in calls]
    return {"count": len(calls), "statuses": statuses, "last": statuses[-1] if statuses else None}


async def _coderd(stage: Stage, _fields: Fields) -> object:
    """The workspace's view of `/_sim/state`, with the statuses and notifications by their names."""
    return {
        **stage.coderd_door.state(),
        "streams": stage.coderd.open_streams(stage.workspace),
        "builds": [
            f"{build.transition} {build.stage.name.lower()} {build.job}" for build in stage.workspace.builds
        ],
        "statuses": [row.state for row in stage.coderd.app_statuses[stage.workspace.id]],
        "notifications": [one.template for one in stage.coderd.notifications],
    }


async def _agent(stage: Stage, _fields: Fields) -> object:
    return {
        "status": stage.agent.conversation.status,
        "messages": len(stage.agent.conversation.messages),
        "received": [one["content"] for one in stage.agent.received],
        "followers": stage.agent.followers,
        "playing": stage.playing,
    }


async def _command(stage: Stage, _fields: Fields) -> object:
    typed = stage.typed
    return None if typed is None else {"code": typed.code, "out": typed.out, "err": typed.err}


async def _answer(stage: Stage, _fields: Fields) -> object:
    return stage.answer


async def _file(stage: Stage, fields: Fields) -> object:
    path = stage.path(fields["path"])
    return {"exists": path.exists(), "text": path.read_text(errors="replace") if path.is_file() else None}


async def _local(stage: Stage, route: str) -> object:
    """The local API's answer; None while nobody answers."""
    try:
        return await stage.require_daemon().ask(route)
    except (aiohttp.ClientError, OSError):
        return None


_NONE: frozenset[str] = frozenset()
_SUBJECTS: dict[str, tuple[frozenset[str], Subject]] = {
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
