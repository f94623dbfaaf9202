"""A task's status, which follows from build, agent and app, and its last reported state."""

from typing import Any, Final

from aiohttp import web

from agentd.simulator import gojson
from agentd.simulator.coderd import answers
from agentd.simulator.coderd.records import Task
from agentd.simulator.coderd.workspaces import Job, Workspace
from agentd.simulator.coderd.world import World

_LIFECYCLE: Final = {
    "": "initializing",
    "created": "initializing",
    "starting": "initializing",
    "ready": "active",
    "start_timeout": "active",
    "start_error": "active",
}
_HEALTH: Final = {
    "initializing": "initializing",
    "unhealthy": "error",
    "healthy": "active",
    "disabled": "active",
}
_WAITING_FOR: Final = {
    "": "Agent is connecting",
    "created": "Agent is connecting",
    "starting": "Agent is starting",
}


def find(world: World, name: str) -> Task | None:
    """The task with that id or name. An unknown id is looked up as a name."""
    try:
        task = world.tasks.get(answers.parse_uuid(name))
    except ValueError:
        task = None
    if task is None:
        task = next((task for task in world.tasks.values() if task.name == name and not task.deleted), None)
    return task if task is not None and not task.deleted else None


def status_of(task: Task) -> str:
    """pending, initializing, active, paused, unknown or error, as in coderd's view `tasks_with_status`."""
    workspace = task.workspace
    if workspace is None:
        return "pending"
    build = _build_status(workspace)
    if build != "active":
        return build
    agent = _LIFECYCLE.get(workspace.agent_lifecycle, "unknown")
    if agent != "active":
        return agent
    return _HEALTH.get(workspace.app_health, "unknown")


def app_refusal(task: Task) -> web.Response | None:
    """The error when the app of an active task cannot be reached, else None.

    The checks have coderd's order.
    """
    if task.workspace is None:
        return answers.error(400, "Task does not have a workspace.")
    if task.app_slug not in task.workspace.agent.apps:
        return answers.error(400, "Task does not have a workspace app.")
    if not task.app_url:
        return answers.error(500, "Task app URL is not configured.")
    if not task.app_url.startswith("http://"):
        return answers.error(400, "Only http scheme is supported for direct agent-dial.")
    if not task.workspace.agent_connected:
        return answers.error(502, "Failed to reach task app endpoint.", detail="agent is not connected")
    return None


def _build_status(workspace: Workspace) -> str:
    build = workspace.latest
    if build.job is Job.FAILED:
        return "error"
    if build.transition in ("stop", "delete"):
        # While the stop job runs, the task is neither active nor paused.
        return "paused" if build.job is Job.SUCCEEDED else "unknown"
    return "pending" if build.job is Job.PENDING else "active"


def describe(world: World, task: Task) -> dict[str, Any]:
    """The task as `codersdk.Task`."""
    status = status_of(task)
    return {
        "id": task.id,
        "organization_id": world.organization_id,
        "owner_id": task.workspace.owner_id if task.workspace else world.identity["user_id"],
        "owner_name": "user",
        "name": task.name,
        "display_name": task.initial_prompt[:64] or task.name,
        "template_id": world.organization_id,
        "template_version_id": world.organization_id,
        "template_name": "simulated",
        "template_display_name": "",
        "template_icon": "",
        **_workspace_of(task.workspace),
        "initial_prompt": task.initial_prompt,
        "status": status,
        "current_state": _current_state(world, task, status),
        "created_at": gojson.timestamp(task.created_at),
        "updated_at": gojson.timestamp(task.created_at),
    }


def _workspace_of(workspace: Workspace | None) -> dict[str, Any]:
    """The workspace fields of a task.

    Without a workspace, optional fields are omitted and the others are null or empty.
    """
    if workspace is None:
        return {
            "workspace_id": None,
            "workspace_name": "",
            "workspace_agent_id": None,
            "workspace_agent_lifecycle": None,
            "workspace_agent_health": None,
            "workspace_app_id": None,
        }
    return {
        "workspace_id": workspace.id,
        "workspace_name": workspace.name,
        "workspace_status": _workspace_status(workspace),
        "workspace_build_number": workspace.latest.number,
        "workspace_agent_id": workspace.agent.id,
        "workspace_agent_lifecycle": workspace.agent_lifecycle or None,
        "workspace_agent_health": {"healthy": workspace.agent_lifecycle == "ready"},
        "workspace_app_id": None,
    }


def workspace_build(workspace: Workspace) -> dict[str, Any]:
    """The fields of `codersdk.WorkspaceBuild` that identify the latest build."""
    build = workspace.latest
    return {
        "workspace_id": workspace.id,
        "build_number": build.number,
        "transition": build.transition,
        "initiator_id": build.initiator_id,
        "job": {"status": str(build.job)},
        "reason": build.reason,
        "status": _workspace_status(workspace),
    }


def _current_state(world: World, task: Task, status: str) -> dict[str, Any] | None:
    workspace = task.workspace
    if workspace is None:
        return None
    if status == "initializing":
        message = _waits_for(workspace)
        timestamp = gojson.timestamp(world.now())
        return {"timestamp": timestamp, "state": "working", "message": message, "uri": ""}
    rows = [row for row in world.app_statuses.get(workspace.id, ()) if row.app_slug == task.app_slug]
    build = workspace.latest
    if not rows or (build.transition == "start" and rows[-1].created_at < build.created_at):
        return None
    last = rows[-1]
    return {
        "timestamp": gojson.timestamp(last.created_at),
        "state": "failed" if last.state == "failure" else last.state,
        "message": last.message,
        "uri": last.uri,
    }


def _waits_for(workspace: Workspace) -> str:
    if workspace.latest.job is not Job.SUCCEEDED:
        return "Workspace is starting"
    if workspace.agent_lifecycle in _WAITING_FOR:
        return _WAITING_FOR[workspace.agent_lifecycle]
    return (
        "App is initializing"
        if workspace.app_health == "initializing"
        else "Initializing workspace applications"
    )


def _workspace_status(workspace: Workspace) -> str:
    build = workspace.latest
    words = {
        "start": ("starting", "running"),
        "stop": ("stopping", "stopped"),
        "delete": ("deleting", "deleted"),
    }[build.transition]
    if build.job is Job.FAILED:
        return "failed"
    return "pending" if build.job is Job.PENDING else words[build.job is Job.SUCCEEDED]
