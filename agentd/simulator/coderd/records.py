"""The records of a simulated coderd: workspaces, tasks, snapshots, statuses, notifications and executions."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from agentd.simulator.coderd.workspaces import Workspace, Workspaces


@dataclass(slots=True, eq=False)
class Task:
    """A task. Without a workspace its status is pending."""

    id: str
    workspace: Workspace | None
    name: str
    app_slug: str
    app_url: str
    """The address of the task's AgentAPI, for live logs and sends."""
    initial_prompt: str = ""
    created_at: float = 0.0
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A row of task_snapshots. `body` is the received request body, `created_at` is in Unix seconds."""

    envelope: dict[str, Any]
    body: bytes
    created_at: float


@dataclass(frozen=True, slots=True)
class AppStatus:
    """A row of workspace_app_statuses. Every report inserts a row."""

    app_slug: str
    state: str
    message: str
    uri: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification of the user.

    coderd deduplicates equal ones of the same minute, so `minute` is compared too.
    """

    template: str
    task_id: str
    workspace: str
    minute: int
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True, eq=False)
class Execution:
    """One run of an agent. `result` is JSON text, times are in Unix seconds."""

    id: str
    run_id: str
    status: str
    result: str | None = None
    error: str | None = None
    started_at: float = 0.0
    completed_at: float | None = None
    duration_ms: int | None = None


def _new_identity() -> dict[str, str]:
    return {
        "user_id": str(uuid.uuid4()),
        "user_token": f"{uuid.uuid4().hex[:10]}-{uuid.uuid4().hex[:22]}",
        "organization_id": str(uuid.uuid4()),
        "clock_offset_s": "0.0",
    }


@dataclass(slots=True, eq=False, kw_only=True)
class Records:
    """All stored records of one deployment. Dictionaries are by id, `app_statuses` by workspace id."""

    identity: dict[str, str] = field(default_factory=_new_identity)
    """The ids of the deployment and its user, and the offset of its clock."""
    workspaces: Workspaces = field(default_factory=Workspaces)
    tasks: dict[str, Task] = field(default_factory=dict)
    snapshots: dict[str, StoredSnapshot] = field(default_factory=dict)
    app_statuses: dict[str, list[AppStatus]] = field(default_factory=dict)
    notifications: list[Notification] = field(default_factory=list)
    executions: dict[str, Execution] = field(default_factory=dict)
