"""`POST /workspaceagents/me/tasks/{task}/log-snapshot`, with coderd's checks in coderd's order."""

from typing import Final

from aiohttp import web

from agentd.simulator import gojson
from agentd.simulator.coderd import agentapi_messages, answers
from agentd.simulator.coderd.records import StoredSnapshot
from agentd.simulator.coderd.workspaces import Caller
from agentd.simulator.coderd.world import World

MAX_BYTES: Final = 65_536
"""coderd's `taskSnapshotMaxSize`: the largest accepted request body."""


def serve(world: World, request: web.Request, caller: Caller, task_id: str, body: bytes) -> web.Response:
    """Store the snapshot, or answer with the error."""
    try:
        task_id = answers.parse_uuid(task_id)
    except ValueError as exc:
        return answers.error(400, "Invalid task ID format.", detail=str(exc))
    refusal = _check_query(request)
    if refusal is not None:
        return refusal
    task = world.tasks.get(task_id)
    if task is None or task.deleted or task.workspace is not caller.workspace:
        return answers.not_found()
    return _store(world, task_id, body)


def _check_query(request: web.Request) -> web.Response | None:
    validations = []
    formats = [value for value in request.query.getall("format", []) if value]
    if not formats:
        validations.append(("format", 'Query param "format" is required and cannot be empty'))
    validations += [
        (name, f'"{name}" is not a valid query param')
        for name in sorted(set(request.query))
        if name != "format"
    ]
    if validations:
        return answers.error(400, "Invalid query parameters.", validations=validations)
    if formats[0] != "agentapi":
        return answers.error(
            400,
            "Invalid format parameter.",
            detail=f'Only "agentapi" format is currently supported, got "{formats[0]}".',
        )
    return None


def _store(world: World, task_id: str, body: bytes) -> web.Response:
    # Go's MaxBytesReader passes 65,536 bytes to the decoder, which fails only if the value is longer.
    try:
        data = agentapi_messages.decode(gojson.text_of(body[:MAX_BYTES]))
    except gojson.UnfinishedError as exc:
        if len(body) > MAX_BYTES:
            return _too_large(world)
        return _not_decoded(world, str(exc))
    except ValueError as exc:
        return _not_decoded(world, str(exc))
    if data.get("messages") is None:
        return answers.error(
            400, "Invalid agentapi payload structure.", detail='Missing required "messages" field.'
        )
    if any("\0" in text for text in agentapi_messages.texts(data)):
        # The column is jsonb, and PostgreSQL has no U+0000 in text.
        return answers.error(
            500, "Internal error storing snapshot.", detail="pq: unsupported Unicode escape sequence"
        )
    world.snapshots[task_id] = StoredSnapshot({"format": "agentapi", "data": data}, body, world.now())
    return web.Response(status=204)


def _too_large(world: World) -> web.Response:
    if world.behaviour.oversize_status == 413:
        return answers.body_too_large(MAX_BYTES)
    return answers.error(400, "Failed to decode request payload.", detail="http: request body too large")


def _not_decoded(world: World, detail: str) -> web.Response:
    message = (
        "Request body must be valid JSON."
        if world.behaviour.oversize_status == 413
        else "Failed to decode request payload."
    )
    return answers.error(400, message, detail=detail)
