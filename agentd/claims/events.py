"""A server-sent event of coderd's claim stream -> `ClaimEvent` or `Ignored`. Pure.

Shapes (coderd `agentsdk.ReinitializationEvent`): `{"workspace_id", "reason", "owner_id"?}` since v2.32, and
`{"WorkspaceID", "reason"}` up to v2.31, which carries no tags and no owner. During a rolling upgrade to v2.32 the
workspace can be the zero UUID and the owner absent.
"""

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

PREBUILD_CLAIMED = "prebuild_claimed"
NIL_UUID = "00000000-0000-0000-0000-000000000000"

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_WORKSPACE_KEYS = ("workspace_id", "WorkspaceID")


class ClaimEvent(NamedTuple):
    """The control plane says: this workspace now belongs to a person.

    `workspace_id` and `owner_id` are lower-case UUIDs, None where the server sent none (or the nil UUID).
    """

    workspace_id: str | None
    owner_id: str | None
    reason: str


class Ignored(NamedTuple):
    """An event that asks for nothing. `reason` is one sentence for the log; `fault` says that a server misbehaved."""

    reason: str
    fault: bool = False


class _BadField(Exception):
    pass


def parse(event: str, data: str, *, workspace_id: str | None = None) -> ClaimEvent | Ignored:
    """Read one event with type `event` and payload `data`; `workspace_id` is the configured one, if any.

    Never raises: whatever a server sends is an event for us or a reason why not.
    """
    if event == "error":
        return Ignored(f"the server reports an error: {_short(data)}", fault=True)
    if event != "data":
        return Ignored(f"unknown event type {_short(event)}")
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError):
        return Ignored(f"payload is not JSON: {_short(data)}", fault=True)
    if not isinstance(payload, dict):
        return Ignored(f"payload is no object: {_short(data)}", fault=True)
    try:
        claim = ClaimEvent(_workspace(payload), _uuid(payload, "owner_id"), _reason(payload))
    except _BadField as exc:
        return Ignored(str(exc), fault=True)
    if claim.reason != PREBUILD_CLAIMED:
        return Ignored(f"unknown reason {_short(claim.reason)}")
    if workspace_id is not None and claim.workspace_id not in (None, workspace_id.lower()):
        return Ignored(f"names workspace {claim.workspace_id}, but this is {workspace_id}", fault=True)
    return claim


def _workspace(payload: Mapping[str, object]) -> str | None:
    named = {_uuid(payload, key) for key in _WORKSPACE_KEYS} - {None}
    if len(named) > 1:
        raise _BadField("names two workspaces")
    return named.pop() if named else None


def _reason(payload: Mapping[str, object]) -> str:
    reason = payload.get("reason")
    if not isinstance(reason, str):
        raise _BadField("has no reason")
    return reason


def _uuid(payload: Mapping[str, object], key: str) -> str | None:
    value = payload.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _UUID.fullmatch(value.lower()):
        raise _BadField(f"{key} is no UUID: {_short(value)}")
    return None if value == NIL_UUID else value.lower()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
