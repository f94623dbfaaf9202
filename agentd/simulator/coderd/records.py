"""What coderd stores beside workspaces: tasks, snapshots, app statuses, notifications, executions."""

from dataclasses import dataclass
from typing import Any

from agentd.simulator.coderd.workspaces import Workspace


@dataclass(slots=True, eq=False)
class Task:
    """A task; without a workspace it is pending for as long as it has none."""

    id: str
    workspace: Workspace | None
    name: str
    app_slug: str
    app_url: str
    """Where the task's AgentAPI listens: live logs and sends go there."""
    initial_prompt: str = ""
    created_at: float = 0.0
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A row of task_snapshots. `body` is the request as it came, `created_at` Unix seconds."""

    envelope: dict[str, Any]
    body: bytes
    created_at: float


@dataclass(frozen=True, slots=True)
class AppStatus:
    """A row of workspace_app_statuses; every report inserts one."""

    app_slug: str
    state: str
    message: str
    uri: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Notification:
    """What a user is sent. Equal ones within a minute are one (`minute` is part of what is compared)."""

    template: str
    task_id: str
    workspace: str
    minute: int
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True, eq=False)
class Execution:
    """One run of an agent as the control plane sees it; `result` is JSON text, times are Unix seconds."""

    id: str
    run_id: str
    status: str
    result: str | None = None
    error: str | None = None
    started_at: float = 0.0
    completed_at: float | None = None
    duration_ms: int | None = None
