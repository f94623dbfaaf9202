"""The state of a simulated coderd."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from agentd.simulator.coderd.eras import Behaviour
from agentd.simulator.coderd.records import Records, Task
from agentd.simulator.coderd.store import Store
from agentd.simulator.coderd.workspaces import Workspace
from agentd.simulator.serving import Changes
from agentd.simulator.sse import EventStream, StreamOptions


@dataclass(slots=True, eq=False, kw_only=True)
class World(Records):
    """The stored records, and the state that exists only while the server runs.

    The routes read and change both. `now` is the server's clock (Unix seconds), `sleep` paces its pings.
    `state` is the sqlite file of the records (None: memory), from which existing records are loaded.
    """

    behaviour: Behaviour
    options: StreamOptions
    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    state: Path | str | None = None
    hold_builds: bool = False
    """Builds that a user starts stay pending, instead of succeeding at once."""
    changes: Changes = field(default_factory=Changes)
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
        """Store all changes of the records in one transaction, and notify `changes`."""
        self._store.commit(self)
        self.changes.notify()

    def close(self) -> None:
        """Close the state file."""
        self._store.close()

    def drop_task(self, task: Task) -> None:
        """Soft-delete a task and delete its snapshot."""
        task.deleted = True
        self.snapshots.pop(task.id, None)

    def open_streams(self, workspace: Workspace | None = None) -> list[EventStream]:
        """The open reinit streams of one workspace, or of all."""
        if workspace is not None:
            return list(self.streams.get(workspace.id, ()))
        return [stream for streams in self.streams.values() for stream in streams]
