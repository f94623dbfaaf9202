"""Parses a server-sent event of coderd's claim stream to a `ClaimEvent` or to `Ignored` with a reason. Pure.

Payloads (coderd `agentsdk.ReinitializationEvent`): `{"workspace_id", "reason", "owner_id"?}` since v2.32, and
`{"WorkspaceID", "reason"}` up to v2.31, whose struct has no JSON tags and no owner. During a rolling upgrade
to v2.32 the workspace can be the zero UUID and the owner can be missing.
"""

import json
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from agentd.masking import masked

PREBUILD_CLAIMED: Final = "prebuild_claimed"
NIL_UUID: Final = "00000000-0000-0000-0000-000000000000"

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class ClaimEvent(NamedTuple):
    """A user has claimed this prebuild. Ids are lower-case UUIDs, None if absent or the nil UUID.

    `inferred`: coderd sent no event; agentd found the claim by a change of the workspace's owner.
    """

    workspace_id: str | None
    owner_id: str | None
    reason: str
    inferred: bool = False


class Ignored(NamedTuple):
    """An event that needs no action, and why. `fault`: the server violated the protocol."""

    reason: str
    fault: bool = False


def parse(event: str, data: str, *, workspace_id: str | None = None) -> ClaimEvent | Ignored:
    """Parse one event. Never raises. `workspace_id` is the configured one, if any."""
    if event == "error":
        return Ignored(f"the server reports an error: {_short(data)}", fault=True)
    if event != "data":
        return Ignored(f"unknown event type {_short(event)}")
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError):
        return Ignored(f"payload is not JSON: {_short(data)}", fault=True)
    if not isinstance(payload, dict):
        return Ignored(f"payload is not a JSON object: {_short(data)}", fault=True)
    reason = payload.get("reason")
    if not isinstance(reason, str):
        return Ignored("the payload has no reason", fault=True)
    try:
        workspaces = {_uuid(payload, "workspace_id"), _uuid(payload, "WorkspaceID")} - {None}
        owner_id = _uuid(payload, "owner_id")
    except ValueError as exc:
        return Ignored(str(exc), fault=True)
    if len(workspaces) > 1:
        return Ignored("the payload names two workspaces", fault=True)
    claim = ClaimEvent(workspaces.pop() if workspaces else None, owner_id, reason)
    if reason != PREBUILD_CLAIMED:
        return Ignored(f"unknown reason {_short(reason)}")
    if workspace_id is not None and claim.workspace_id not in (None, workspace_id.lower()):
        return Ignored(f"the event is for workspace {claim.workspace_id}; this is {workspace_id}", fault=True)
    return claim


def _uuid(payload: Mapping[str, object], key: str) -> str | None:
    value = payload.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _UUID.fullmatch(value.lower()):
        raise ValueError(f"{key} is not a UUID: {_short(value)}")
    return None if value == NIL_UUID else value.lower()


def _short(value: object) -> str:
    text = masked(repr(value))
    return text if len(text) <= 120 else text[:117] + "..."
