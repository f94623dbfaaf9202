"""The status of agent runs in a control plane. A terminal status is final.

The routes are Agentfield's; coderd has none. Events are fire-and-forget and unordered, so a late event gets
200 and changes nothing. A status callback has a caller that reads the answer, so a change of a terminal
status gets 409. The same terminal status again is a redelivery: 200 without effect.
"""

import re
from collections.abc import Callable
from typing import Final

from aiohttp import web

from agentd.simulator import gojson
from agentd.simulator.coderd.records import Execution
from agentd.simulator.coderd.world import World

TERMINAL: Final = frozenset({"succeeded", "failed", "cancelled", "timeout"})
STATUSES: Final = frozenset({"pending", "queued", "waiting", "running"}) | TERMINAL
_ALIASES: Final = {
    "success": "succeeded",
    "completed": "succeeded",
    "complete": "succeeded",
    "error": "failed",
    "failure": "failed",
    "canceled": "cancelled",
    "timed_out": "timeout",
    "in_progress": "running",
}


_TYPES: Final[tuple[tuple[str, str, Callable[[object], bool]], ...]] = (
    *((name, "string", lambda value: gojson.kind_of(value) == "string") for name in ("execution_id", "run_id", "workflow_id", "status", "error")),
    ("duration_ms", "int64", lambda value: re.fullmatch(r"-?\d{1,18}", str(value)) is not None and gojson.kind_of(value) == "number"),
)  # fmt: skip


def event(world: World, body: bytes) -> web.Response:
    """`POST /api/v1/workflow/executions/events`: 200, also for an event that changes nothing.

    The body is `{"created": true, "success": true}` or `{"success": true, "updated": true}`.
    """
    fields = _fields(body)
    if isinstance(fields, str):
        return _answer(400, {"error": f"invalid payload: {fields}"})
    execution_id = _text(fields, "execution_id")
    if not execution_id:
        missing = "Key: 'WorkflowExecutionEventRequest.ExecutionID' Error:Field validation for 'ExecutionID' failed on the 'required' tag"
        return _answer(400, {"error": f"invalid payload: {missing}"})
    known = world.executions.get(execution_id)
    if known is None:
        run_id = _text(fields, "run_id") or _text(fields, "workflow_id") or execution_id
        known = world.executions[execution_id] = Execution(
            execution_id, run_id, "unknown", started_at=world.now()
        )
        _apply(world, known, _normalized(_text(fields, "status")), fields)
        return _answer(200, {"created": True, "success": True})
    if known.status not in TERMINAL:
        _apply(world, known, _normalized(_text(fields, "status")), fields)
    return _answer(200, {"success": True, "updated": True})


def update_status(world: World, execution_id: str, body: bytes) -> web.Response:
    """`POST|PUT /api/v1/executions/{id}/status`: 200 with the execution, 409 to change a terminal status."""
    fields = _fields(body)
    if isinstance(fields, str):
        return _answer(400, {"error": f"invalid request body: {fields}"})
    status = _normalized(_text(fields, "status"))
    if status not in STATUSES:
        return _answer(400, {"error": f"unsupported status '{_text(fields, 'status')}'"})
    known = world.executions.get(execution_id)
    if known is None:
        return _not_found()
    if known.status in TERMINAL and known.status != status:
        conflict = f"terminal execution state conflict: execution {execution_id} is already {known.status}"
        return _answer(409, {"error": f"failed to update execution: {conflict}"})
    if known.status not in TERMINAL:
        _apply(world, known, status, fields)
    return _answer(200, describe(known))


def show(world: World, execution_id: str) -> web.Response:
    """`GET /api/v1/executions/{id}`."""
    known = world.executions.get(execution_id)
    return _not_found() if known is None else _answer(200, describe(known))


def describe(one: Execution) -> dict[str, object]:
    """The execution as JSON. Unknown values are omitted."""
    value: dict[str, object] = {"execution_id": one.id, "run_id": one.run_id, "status": one.status}
    if one.result is not None:
        value["result"] = gojson.plain(gojson.first_value(one.result))
    if one.error is not None:
        value["error"] = one.error
    value["started_at"] = gojson.timestamp(one.started_at)
    if one.completed_at is not None:
        value["completed_at"] = gojson.timestamp(one.completed_at)
    if one.duration_ms is not None:
        value["duration_ms"] = one.duration_ms
    return value


def _apply(world: World, one: Execution, status: str, fields: gojson.Pairs) -> None:
    one.status = status
    result = fields.field("result")
    if result is not None:
        one.result = gojson.dumps(gojson.plain(result))
    error, duration = _text(fields, "error"), fields.field("duration_ms")
    if error:
        one.error = error
    elif status == "succeeded":
        one.error = None
    if duration is not None:
        one.duration_ms = int(duration)
    if status in TERMINAL:
        one.completed_at = world.now()
        if one.duration_ms is None:
            one.duration_ms = int((one.completed_at - one.started_at) * 1000)


def _normalized(status: str) -> str:
    word = status.strip().lower()
    word = _ALIASES.get(word, word)
    return word if word in STATUSES else "unknown"


def _fields(body: bytes) -> gojson.Pairs | str:
    """The object, or Go's error message."""
    if not body.strip():
        return "EOF"
    try:
        value = gojson.first_value(gojson.text_of(body))
    except gojson.GoSyntaxError as exc:
        return str(exc)
    if not isinstance(value, gojson.Pairs):
        return f"json: cannot unmarshal {gojson.kind_of(value)} into Go value of type handlers.request"
    for name, go_type, kind in _TYPES:
        given = value.field(name)
        if given is not None and not kind(given):
            return f"json: cannot unmarshal {gojson.kind_of(given)} into Go struct field request.{name} of type {go_type}"
    try:
        gojson.dumps(gojson.plain(value))
    except ValueError:
        return "json: cannot unmarshal number into Go value of type float64"
    return value


def _text(fields: gojson.Pairs, name: str) -> str:
    value = fields.field(name)
    return str(value) if gojson.kind_of(value) == "string" else ""


def _not_found() -> web.Response:
    return _answer(404, {"error": "execution not found"})


def _answer(status: int, value: object) -> web.Response:
    # The format of the gin framework: HTML-escaped, without a newline at the end.
    body = gojson.dumps(value).encode()
    return web.Response(status=status, body=body, headers={"Content-Type": "application/json; charset=utf-8"})
