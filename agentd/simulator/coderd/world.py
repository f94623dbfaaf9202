"""What a simulated coderd knows: the state its routes read and change, and where it is stored."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from agentd.simulator.coderd.eras import Behaviour
from agentd.simulator.coderd.records import AppStatus, Execution, Notification, StoredSnapshot, Task
from agentd.simulator.coderd.store import Store
from agentd.simulator.coderd.workspaces import Workspace, Workspaces
from agentd.simulator.serving import Changes
from agentd.simulator.sse import EventStream, Manners

__all__ = ["AppStatus", "Execution", "Notification", "StoredSnapshot", "Task", "World"]


def _new_identity() -> dict[str, str]:
    return {
        "user_id": str(uuid.uuid4()),
        "user_token": f"{uuid.uuid4().hex[:10]}-{uuid.uuid4().hex[:22]}",
        "organization_id": str(uuid.uuid4()),
        "clock_offset_s": "0.0",
    }


@dataclass(slots=True, eq=False)
class World:
    """The state behind the routes. `now` is the server's clock (Unix seconds), `sleep` paces its pings.

    `state` is the sqlite file it is kept in, None for memory; what the file holds is taken over.
    """

    behaviour: Behaviour
    manners: Manners
    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    state: Path | str | None = None
    hold_builds: bool = False
    """Builds a user begins stay pending until they are told to go on, instead of being done at once."""
    changes: Changes = field(default_factory=Changes)
    identity: dict[str, str] = field(default_factory=_new_identity)
    """Who the deployment and its user are, and how far its clock is off."""
    workspaces: Workspaces = field(default_factory=Workspaces)
    tasks: dict[str, Task] = field(default_factory=dict)
    snapshots: dict[str, StoredSnapshot] = field(default_factory=dict)
    app_statuses: dict[str, list[AppStatus]] = field(default_factory=dict)
    notifications: list[Notification] = field(default_factory=list)
    executions: dict[str, Execution] = field(default_factory=dict)
    streams: dict[str, list[EventStream]] = field(default_factory=dict)
    _store: Store = field(init=False)

    def __post_init__(self) -> None:
        self._store = Store(self.state)
        self._store.load(self)
        self._store.commit(self)

    @property
    def organization_id(self) -> str:
        return self.identity["organization_id"]

    def commit(self) -> None:
        """Store every change since the last time, in one transaction, and tell whoever waits."""
        self._store.commit(self)
        self.changes.notify()

    def close(self) -> None:
        """Let go of the state file."""
        self._store.close()

    def drop_task(self, task: Task) -> None:
        """Soft-delete a task; its snapshot goes in the same step."""
        task.deleted = True
        self.snapshots.pop(task.id, None)

    def open_streams(self, workspace: Workspace | None = None) -> list[EventStream]:
        """The reinit streams of one workspace, or of all."""
        if workspace is not None:
            return list(self.streams.get(workspace.id, ()))
        return [stream for streams in self.streams.values() for stream in streams]
