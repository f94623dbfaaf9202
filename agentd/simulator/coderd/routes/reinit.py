"""`GET /workspaceagents/me/reinit`: the claim stream of each era."""

from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from agentd.simulator import sse
from agentd.simulator.coderd import answers
from agentd.simulator.coderd.eras import Wait
from agentd.simulator.coderd.workspaces import NIL_UUID, PREBUILDS_USER, Caller, Job, Stage, Workspace
from agentd.simulator.coderd.world import World

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})  # strconv.ParseBool

REGULAR: Final = "This endpoint is only for agents running in prebuilt workspaces."
HANDLED: Final = "The prebuild claim for this workspace has already been handled by an earlier build."


def claim_event(world: World, workspace: Workspace) -> bytes:
    """The claim event in the format of the server's era."""
    if not world.behaviour.owner_in_event:
        return sse.event("data", {"WorkspaceID": workspace.id, "reason": "prebuild_claimed"})
    payload = {"workspace_id": workspace.id, "reason": "prebuild_claimed"}
    if workspace.owner_id != NIL_UUID:
        payload["owner_id"] = workspace.owner_id
    return sse.event("data", payload)


async def serve(
    world: World,
    request: web.Request,
    caller: Caller,
    *,
    options: sse.StreamOptions,
    headers: Mapping[str, str],
    on_open: Callable[[], None],
) -> web.StreamResponse:
    """Answer 409, or serve the stream until it ends. `on_open()` is called when its headers are sent."""
    workspace = caller.workspace
    stream = sse.EventStream(request, options=options, headers=headers, sleep=world.sleep, on_open=on_open)
    # Subscribe before the durable check, so that no claim between the two is lost.
    world.streams.setdefault(workspace.id, []).append(stream)
    try:
        waits = request.query.get("wait", "") in _TRUE
        verdict = durable_check(world, workspace) if waits else None
        if isinstance(verdict, web.Response):
            return verdict
        world.changes.notify()
        return await stream.run([verdict] if verdict else [])
    finally:
        world.streams[workspace.id].remove(stream)
        world.changes.notify()


def durable_check(world: World, workspace: Workspace) -> bytes | web.Response | None:
    """The result of `?wait=true`: an event to send first, a 409, or None to wait on the stream."""
    wait = world.behaviour.wait
    if wait is Wait.IGNORED or workspace.owner_id == PREBUILDS_USER:
        return None
    if workspace.builds[0].initiator_id != PREBUILDS_USER:
        return _not_waiting(REGULAR)
    latest = workspace.latest
    if wait is Wait.GATED and latest.stage is not Stage.CLAIM:
        if latest.initiator_id == PREBUILDS_USER:
            return None  # the user already owns the workspace, but the claim build is not inserted yet
        return _not_waiting(HANDLED)
    if latest.job is Job.SUCCEEDED:
        return claim_event(world, workspace)
    if latest.job is Job.FAILED:
        return answers.error(409, "Claim build failed permanently.", detail=latest.error)
    return None


def _not_waiting(detail: str) -> web.Response:
    return answers.error(409, "Workspace is not a prebuilt workspace waiting to be claimed.", detail=detail)
