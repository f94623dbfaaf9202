"""What a simulated coderd knows: the state its routes read and change."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from agentd.simulator.coderd.eras import Behaviour
from agentd.simulator.coderd.workspaces import Workspace, Workspaces
from agentd.simulator.serving import Changes
from agentd.simulator.sse import EventStream, Manners


@dataclass(slots=True, eq=False)
class Task:
    id: str
    workspace: Workspace
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


@dataclass(slots=True, eq=False)
class World:
    """The state behind the routes. `now` is the server's clock (Unix seconds), `sleep` paces its pings."""

    behaviour: Behaviour
    manners: Manners
    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    changes: Changes = field(default_factory=Changes)
    workspaces: Workspaces = field(default_factory=Workspaces)
    tasks: dict[str, Task] = field(default_factory=dict)
    snapshots: dict[str, StoredSnapshot] = field(default_factory=dict)
    app_statuses: dict[str, list[AppStatus]] = field(default_factory=dict)
    notifications: list[Notification] = field(default_factory=list)
    streams: dict[str, list[EventStream]] = field(default_factory=dict)
    organization_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def drop_task(self, task: Task) -> None:
        """Soft-delete a task; its snapshot goes in the same step."""
        task.deleted = True
        self.snapshots.pop(task.id, None)
        self.changes.notify()

    def open_streams(self, workspace: Workspace | None = None) -> list[EventStream]:
        """The reinit streams of one workspace, or of all."""
        if workspace is not None:
            return list(self.streams.get(workspace.id, ()))
        return [stream for streams in self.streams.values() for stream in streams]
