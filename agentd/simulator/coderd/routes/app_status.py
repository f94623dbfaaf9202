"""`PATCH /workspaceagents/me/app-status`: check, store, move the deadline, notify."""

import html
import re
from typing import Final

from aiohttp import web

from agentd.simulator import gojson
from agentd.simulator.coderd import answers
from agentd.simulator.coderd.records import AppStatus, Notification
from agentd.simulator.coderd.workspaces import Caller
from agentd.simulator.coderd.world import World

STATES: Final = ("working", "idle", "complete", "failure")
MAX_MESSAGE_BYTES: Final = 160
MAX_BODY_BYTES: Final = 4 << 20
"""E4's limit for JSON endpoints without a limit of their own."""
_TEMPLATES: Final = {
    "working": "Task Working",
    "idle": "Task Idle",
    "complete": "Task Completed",
    "failure": "Task Failed",
}
_TAG: Final = re.compile(r"<[^>]*>")
_ANSI: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_SPACE: Final = re.compile(r"\s+")


def serve(world: World, caller: Caller, body: bytes) -> web.Response:
    """Insert one status, or answer with the error."""
    if world.behaviour.oversize_status == 413 and len(body) > MAX_BODY_BYTES:
        return answers.body_too_large(MAX_BODY_BYTES)
    try:
        slug, state, message, uri = _fields(body)
    except ValueError as exc:
        return answers.error(400, "Request body must be valid JSON.", detail=str(exc))
    refusal = _check(world, caller, slug, state, message)
    if refusal is not None:
        return refusal
    _insert(world, caller, AppStatus(slug, state.lower(), sanitize(message), uri, world.now()))
    return answers.reply(200, None)


def sanitize(message: str) -> str:
    """`message` without tags, terminal escapes and unprintable characters, with single blanks."""
    message = _ANSI.sub("", html.unescape(_TAG.sub("", message)))
    printable = "".join(char if char.isprintable() or char.isspace() else "" for char in message)
    return _SPACE.sub(" ", printable).strip()


def _fields(body: bytes) -> tuple[str, str, str, str]:
    value = gojson.first_value(gojson.text_of(body))
    if value is not None and not isinstance(value, gojson.Pairs):
        raise ValueError(
            f"json: cannot unmarshal {gojson.kind_of(value)} into Go value of type agentsdk.PatchAppStatus"
        )
    found = []
    for name in ("app_slug", "state", "message", "uri"):
        field = None if value is None else value.field(name)
        if field is not None and gojson.kind_of(field) != "string":
            raise ValueError(
                f"json: cannot unmarshal {gojson.kind_of(field)} into Go struct field PatchAppStatus.{name} of type string"
            )
        found.append(field or "")
    return found[0], found[1], found[2], found[3]


def _check(world: World, caller: Caller, slug: str, state: str, message: str) -> web.Response | None:
    slug_first = world.behaviour.app_status_checks_slug_first

    def bad_state() -> web.Response | None:
        if (state if slug_first else state.lower()) in STATES:
            return None
        if slug_first:
            detail = f'invalid state: "{state}"'
            return answers.error(
                400, "Invalid state provided.", detail=detail, validations=[("state", detail)]
            )
        return answers.error(400, "Failed to parse request.", detail=f"Invalid state: {state}")

    def too_long() -> web.Response | None:
        if len(message.encode()) <= MAX_MESSAGE_BYTES:
            return None
        detail = f"Message must be less than {MAX_MESSAGE_BYTES} characters."
        return answers.error(400, "Message is too long.", detail=detail, validations=[("message", detail)])

    def no_app() -> web.Response | None:
        if slug in caller.agent.apps:
            return None
        return answers.error(400, "Failed to get workspace app.", detail=f'No app found with slug "{slug}"')

    order = (bad_state, too_long, no_app)
    if slug_first:
        order = (no_app, too_long, bad_state)
    return next((refusal for check in order if (refusal := check()) is not None), None)


def _insert(world: World, caller: Caller, status: AppStatus) -> None:
    rows = world.app_statuses.setdefault(caller.workspace.id, [])
    before = next((row.state for row in reversed(rows) if row.app_slug == status.app_slug), None)
    rows.append(status)
    if world.behaviour.bumps_deadline and "working" in (status.state, before):
        caller.workspace.deadline_bumps.append(status.created_at)
    _notify(world, caller, status, before)


def _notify(world: World, caller: Caller, status: AppStatus, before: str | None) -> None:
    task = next(
        (task for task in world.tasks.values() if task.workspace is caller.workspace and not task.deleted),
        None,
    )
    if task is None or task.app_slug != status.app_slug or caller.workspace.agent_lifecycle != "ready":
        return
    if before == status.state or (before is None and status.state == "working"):
        return
    notification = Notification(
        _TEMPLATES[status.state], task.id, caller.workspace.name, int(status.created_at // 60)
    )
    if notification not in world.notifications:
        world.notifications.append(notification)
