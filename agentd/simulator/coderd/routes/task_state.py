"""What coderd says a task is doing: its status from build, agent and app, and its last reported state."""

from datetime import UTC, datetime
from typing import Any

from agentd.simulator.coderd import answers
from agentd.simulator.coderd.workspaces import Job
from agentd.simulator.coderd.world import Task, World

_LIFECYCLE = {
    "": "initializing",
    "created": "initializing",
    "starting": "initializing",
    "ready": "active",
    "start_timeout": "active",
    "start_error": "active",
}
_HEALTH = {"initializing": "initializing", "unhealthy": "error", "healthy": "active", "disabled": "active"}
_WAITING_FOR = {"": "Agent is connecting", "created": "Agent is connecting", "starting": "Agent is starting"}


def find(world: World, name: str) -> Task | None:
    """The task of that id or name; an id that is not found is looked for as a name."""
    try:
        task = world.tasks.get(answers.parse_uuid(name))
    except ValueError:
        task = None
    if task is None:
        task = next((task for task in world.tasks.values() if task.name == name and not task.deleted), None)
    return task if task is not None and not task.deleted else None


def status_of(task: Task) -> str:
    """pending, initializing, active, paused, unknown or error (view `tasks_with_status`)."""
    build = _build_status(task)
    if build != "active":
        return build
    agent = _LIFECYCLE.get(task.workspace.agent_lifecycle, "unknown")
    if agent != "active":
        return agent
    return _HEALTH.get(task.workspace.app_health, "unknown")


def _build_status(task: Task) -> str:
    build = task.workspace.latest
    if build.job is Job.FAILED:
        return "error"
    if build.transition in ("stop", "delete"):
        # A pause in progress is neither active nor paused.
        return "paused" if build.job is Job.SUCCEEDED else "unknown"
    return "pending" if build.job is Job.PENDING else "active"


def describe(world: World, task: Task) -> dict[str, Any]:
    """The task as `codersdk.Task`."""
    workspace, agent = task.workspace, task.workspace.agent
    status = status_of(task)
    return {
        "id": task.id,
        "organization_id": world.organization_id,
        "owner_id": workspace.owner_id,
        "owner_name": "user",
        "name": task.name,
        "display_name": task.initial_prompt[:64] or task.name,
        "template_id": world.organization_id,
        "template_version_id": world.organization_id,
        "template_name": "simulated",
        "template_display_name": "",
        "template_icon": "",
        "workspace_id": workspace.id,
        "workspace_name": workspace.name,
        "workspace_status": _workspace_status(task),
        "workspace_build_number": workspace.latest.number,
        "workspace_agent_id": agent.id,
        "workspace_agent_lifecycle": workspace.agent_lifecycle,
        "workspace_agent_health": {"healthy": workspace.agent_lifecycle == "ready"},
        "workspace_app_id": None,
        "initial_prompt": task.initial_prompt,
        "status": status,
        "current_state": _current_state(world, task, status),
        "created_at": stamp(task.created_at),
        "updated_at": stamp(task.created_at),
    }


def workspace_build(task: Task) -> dict[str, Any]:
    """The part of `codersdk.WorkspaceBuild` that tells which build was begun."""
    build = task.workspace.latest
    return {
        "workspace_id": task.workspace.id,
        "build_number": build.number,
        "transition": build.transition,
        "initiator_id": build.initiator_id,
        "job": {"status": str(build.job)},
        "reason": build.reason,
    }


def _current_state(world: World, task: Task, status: str) -> dict[str, Any] | None:
    if status == "initializing":
        return {"timestamp": stamp(world.now()), "state": "working", "message": _waits_for(task), "uri": ""}
    rows = [row for row in world.app_statuses.get(task.workspace.id, ()) if row.app_slug == task.app_slug]
    begun = task.workspace.latest
    if not rows or (begun.transition == "start" and rows[-1].created_at < begun.created_at):
        return None
    last = rows[-1]
    state = "failed" if last.state == "failure" else last.state
    return {"timestamp": stamp(last.created_at), "state": state, "message": last.message, "uri": last.uri}


def _waits_for(task: Task) -> str:
    if task.workspace.latest.job is not Job.SUCCEEDED:
        return "Workspace is starting"
    if task.workspace.agent_lifecycle in _WAITING_FOR:
        return _WAITING_FOR[task.workspace.agent_lifecycle]
    return (
        "App is initializing"
        if task.workspace.app_health == "initializing"
        else "Initializing workspace applications"
    )


def _workspace_status(task: Task) -> str:
    build = task.workspace.latest
    words = {
        "start": ("starting", "running"),
        "stop": ("stopping", "stopped"),
        "delete": ("deleting", "deleted"),
    }[build.transition]
    if build.job is Job.FAILED:
        return "failed"
    return "pending" if build.job is Job.PENDING else words[build.job is Job.SUCCEEDED]


def stamp(unix_s: float) -> str:
    """Microseconds, as the database keeps them, trailing zeros trimmed, as Go writes them."""
    at = datetime.fromtimestamp(unix_s, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S") + f".{at.microsecond:06d}".rstrip("0").rstrip(".") + "Z"
