"""`/api/v2/tasks`, the user's routes.

The logs of an active task come from its AgentAPI, else from the stored snapshot.
"""

from typing import Any, Final

import aiohttp
from aiohttp import web

from agentd.simulator import gojson
from agentd.simulator.coderd import agentapi_messages, answers
from agentd.simulator.coderd.records import Notification, Task
from agentd.simulator.coderd.routes import task_state
from agentd.simulator.coderd.workspaces import Job
from agentd.simulator.coderd.world import World
from agentd.simulator.faults import SimulatorError

_TYPES: Final = {"user": "input", "agent": "output"}


def listing(world: World) -> web.Response:
    """The tasks that are not deleted."""
    tasks = [task_state.describe(world, task) for task in world.tasks.values() if not task.deleted]
    return answers.reply(200, {"tasks": tasks, "count": len(tasks)})


async def logs(world: World, task: Task, http: aiohttp.ClientSession) -> web.Response:
    """The conversation from the agent or from the snapshot; 409 when the status allows neither."""
    status = task_state.status_of(task)
    if status == "active":
        return task_state.app_refusal(task) or await _live_logs(task, http)
    if status in ("paused", "pending", "initializing") and world.behaviour.snapshot_in_logs:
        return _stored_logs(world, task)
    return answers.error(
        409, "Cannot fetch logs for task in current state.", detail=f'Task status is "{status}".'
    )


def _stored_logs(world: World, task: Task) -> web.Response:
    stored = world.snapshots.get(task.id)
    if stored is None:
        return answers.reply(200, {"logs": [], "snapshot": True})
    kind = stored.envelope["format"]
    if kind != "agentapi":
        return answers.error(
            500, "Unsupported task snapshot format.", detail=f'Expected format "agentapi", got "{kind}".'
        )
    entries = _entries(stored.envelope["data"]["messages"])
    if isinstance(entries, str):
        return answers.error(500, "Invalid snapshot data.", detail=entries)
    return answers.reply(
        200, {"logs": entries, "snapshot": True, "snapshot_at": gojson.timestamp(stored.created_at)}
    )


async def _live_logs(task: Task, http: aiohttp.ClientSession) -> web.Response:
    try:
        async with http.get(f"{task.app_url}/messages") as response:
            body = await response.read()
            status = response.status
    except (aiohttp.ClientError, TimeoutError) as exc:
        return answers.error(502, "Failed to get messages from task app.", detail=str(exc))
    if status != 200:
        return answers.error(
            502, "Failed to get messages from task app.", detail=f"unexpected status code {status}"
        )
    try:
        entries = _entries(agentapi_messages.decode(gojson.text_of(body))["messages"] or [])
    except ValueError as exc:
        return answers.error(502, "Failed to get messages from task app.", detail=str(exc))
    if isinstance(entries, str):
        return answers.error(502, "Invalid task app response.", detail=entries)
    return answers.reply(200, {"logs": entries})


def _entries(messages: list[dict[str, Any]]) -> list[dict[str, Any]] | str:
    """Messages as log entries, or the error of an unknown role. coderd checks roles only here."""
    entries = []
    for message in messages:
        if message["role"] not in _TYPES:
            return f'invalid agentapi message role "{message["role"]}"'
        entries.append(
            {
                "id": message["id"],
                "content": message["content"],
                "type": _TYPES[message["role"]],
                "time": message["time"],
            }
        )
    return entries


async def send(world: World, task: Task, body: bytes, http: aiohttp.ClientSession) -> web.Response:
    """Send the user's input to the agent if it is stable. Nothing is queued."""
    text = _input(body, "TaskSendRequest")
    if isinstance(text, web.Response):
        return text
    refusal = _not_now(task_state.status_of(task)) or task_state.app_refusal(task)
    if refusal is not None:
        return refusal
    try:
        async with http.get(f"{task.app_url}/status") as response:
            state = (await response.json())["status"] if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
        state = None
    if state is None:
        return answers.error(502, "Failed to get status from task app.")
    if state != "stable":
        return answers.error(
            world.behaviour.busy_send_status,
            "Task app is not ready to accept input.",
            detail=f"Status: {state}",
        )
    try:
        async with http.post(f"{task.app_url}/message", json={"content": text, "type": "user"}) as response:
            accepted = response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        accepted = False
    return web.Response(status=204) if accepted else answers.error(502, "Task app rejected the message.")


def _not_now(status: str) -> web.Response | None:
    if status in ("pending", "initializing"):
        return answers.error(
            409,
            f"Task is {status}.",
            detail="The task is resuming. Wait for the task to become active before sending messages.",
        )
    if status == "paused":
        return answers.error(409, "Task is paused.", detail="Resume the task to send messages.")
    if status != "active":
        detail = f'Task status is "{status}", it must be "active" to interact with the task.'
        return answers.error(400, "Task must be active.", detail=detail)
    return None


def update_input(task: Task, body: bytes) -> web.Response:
    """Replace the prompt of a paused task."""
    text = _input(body, "UpdateTaskInputRequest")
    if isinstance(text, web.Response):
        return text
    if task_state.status_of(task) != "paused":
        return answers.error(
            409,
            "Unable to update task input, task must be paused.",
            detail="Please stop the task's workspace before updating the input.",
        )
    task.initial_prompt = text
    return web.Response(status=204)


def _input(body: bytes, go_type: str) -> str | web.Response:
    try:
        value = gojson.first_value(gojson.text_of(body))
    except gojson.GoSyntaxError as exc:
        return answers.error(400, "Request body must be valid JSON.", detail=str(exc))
    if value is not None and not isinstance(value, gojson.Pairs):
        detail = f"json: cannot unmarshal {gojson.kind_of(value)} into Go value of type codersdk.{go_type}"
        return answers.error(400, "Request body must be valid JSON.", detail=detail)
    text = value.field("input") if value is not None else None
    if text is not None and gojson.kind_of(text) != "string":
        detail = f"json: cannot unmarshal {gojson.kind_of(text)} into Go struct field {go_type}.input of type string"
        return answers.error(400, "Request body must be valid JSON.", detail=detail)
    return str(text) if text else answers.error(400, "Task input is required.")


def pause(world: World, task: Task) -> web.Response:
    """Insert a pending stop build, in every state of the task, unless a build is in progress.

    With `hold_builds` its job stays pending, else it runs.
    """
    if task.workspace is None:
        return answers.error(500, "Task does not have a workspace.")
    try:
        world.workspaces.stop_start(
            task.workspace, reason="task_manual_pause", now=world.now(), job=Job.PENDING
        )
    except SimulatorError:
        return answers.build_is_active()
    _notify(world, task, "Task Paused", ("pause_reason", "manual"))
    build = task_state.workspace_build(task.workspace)
    if not world.hold_builds:
        world.workspaces.run_job(task.workspace)
    return answers.reply(202, {"workspace_build": build})


def resume(world: World, task: Task) -> web.Response:
    """Begin a start build, which gives the agent a new token. With `hold_builds` its job stays pending."""
    if task.workspace is None:
        return answers.error(500, "Task does not have a workspace.")
    latest = task.workspace.latest
    if latest.transition == "start" and latest.job is Job.SUCCEEDED:
        return answers.error(
            409, "Task workspace is already running.", detail='Workspace status is "running".'
        )
    try:
        world.workspaces.start(
            task.workspace,
            task.workspace.owner_id,
            token=None,
            reason="task_resume",
            now=world.now(),
            job=Job.PENDING,
        )
    except SimulatorError:
        return answers.build_is_active()
    _notify(world, task, "Task Resumed")
    build = task_state.workspace_build(task.workspace)
    if not world.hold_builds:
        world.workspaces.start_finish(task.workspace)
    return answers.reply(202, {"workspace_build": build})


def delete(world: World, task: Task) -> web.Response:
    """Unless a build is in progress: begin a delete build, soft-delete the task and delete its snapshot, in one transaction."""
    if task.workspace is not None:
        try:
            world.workspaces.delete(task.workspace, now=world.now())
        except SimulatorError:
            return answers.build_is_active()
    world.drop_task(task)
    return web.Response(status=202)


def _notify(world: World, task: Task, template: str, *labels: tuple[str, str]) -> None:
    name = task.workspace.name if task.workspace else ""
    about = (("task", task.name), ("task_id", task.id), ("workspace", name), *labels)
    world.notifications.append(Notification(template, task.id, name, int(world.now() // 60), about))
