"""Stores the records of a simulated coderd in sqlite, so that it keeps them after a stop or a kill.

The routes change plain objects (`Records`). `commit()` compares the rows of these objects with the rows of
the last commit and writes the difference in one transaction, before the route's answer is sent. So a task's
soft deletion and the removal of its snapshot are one transaction, as in coderd, and a route need not list its
changes.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from agentd.simulator.coderd.records import AppStatus, Execution, Notification, Records, StoredSnapshot, Task
from agentd.simulator.coderd.workspaces import Agent, Build, Job, Stage, Workspace
from agentd.simulator.faults import SimulatorError

SCHEMA_VERSION: Final = 1
Row: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Table:
    """A table. The first `keys` of the `columns` are the primary key."""

    name: str
    keys: int
    columns: str
    rows: Callable[[Records], Iterable[Row]]

    @property
    def names(self) -> list[str]:
        return self.columns.split()

    def sql(self, what: str) -> str:
        names, key = self.names, self.names[: self.keys]
        match what:
            case "create":
                body = f"{', '.join(names)}, PRIMARY KEY ({', '.join(key)})"
                return f"CREATE TABLE {self.name} ({body})"
            case "write":
                return f"INSERT OR REPLACE INTO {self.name} VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - our own names
            case "delete":
                return f"DELETE FROM {self.name} WHERE {' AND '.join(f'{one} = ?' for one in key)}"  # noqa: S608 - our own names
        return f"SELECT {', '.join(names)} FROM {self.name} ORDER BY {', '.join(key)}"  # noqa: S608 - our own names


def _workspace_rows(records: Records) -> Iterable[Row]:
    for at, ws in enumerate(records.workspaces.all()):
        bumps = json.dumps(ws.deadline_bumps)
        yield (
            at,
            ws.id,
            ws.name,
            ws.owner_id,
            ws.token,
            ws.agent_lifecycle,
            ws.app_health,
            ws.agent_connected,
            bumps,
        )


def _build_rows(records: Records) -> Iterable[Row]:
    for ws in records.workspaces.all():
        for build in ws.builds:
            yield (
                ws.id, build.number, build.transition, build.initiator_id, int(build.stage), str(build.job), build.error,
                build.reason, build.created_at,
            )  # fmt: skip


def _agent_rows(records: Records) -> Iterable[Row]:
    for ws in records.workspaces.all():
        for build in ws.builds:
            for at, agent in enumerate(build.agents):
                apps = json.dumps(agent.apps)
                yield ws.id, build.number, at, agent.id, agent.name, agent.token, agent.instance_id, apps


def _task_rows(records: Records) -> Iterable[Row]:
    for at, task in enumerate(records.tasks.values()):
        yield (
            at, task.id, task.workspace.id if task.workspace else None, task.name, task.app_slug, task.app_url,
            task.initial_prompt, task.created_at, task.deleted,
        )  # fmt: skip


def _snapshot_rows(records: Records) -> Iterable[Row]:
    for task_id, row in records.snapshots.items():
        yield task_id, json.dumps(row.envelope, ensure_ascii=False), row.body, row.created_at


def _status_rows(records: Records) -> Iterable[Row]:
    for ws_id, rows in records.app_statuses.items():
        for at, row in enumerate(rows):
            yield ws_id, at, row.app_slug, row.state, row.message, row.uri, row.created_at


def _notification_rows(records: Records) -> Iterable[Row]:
    for at, one in enumerate(records.notifications):
        yield at, one.template, one.task_id, one.workspace, one.minute, json.dumps(one.labels)


def _execution_rows(records: Records) -> Iterable[Row]:
    for one in records.executions.values():
        yield (
            one.id, one.run_id, one.status, one.result, one.error, one.started_at, one.completed_at, one.duration_ms
        )  # fmt: skip


_TABLES: Final = (
    _Table("meta", 1, "key value", lambda records: sorted(records.identity.items())),
    _Table(
        "workspaces",
        1,
        "position id name owner_id token agent_lifecycle app_health agent_connected deadline_bumps",
        _workspace_rows,
    ),
    _Table(
        "workspace_builds",
        2,
        "workspace_id build_number transition_kind initiator_id stage job_status job_error reason created_at",
        _build_rows,
    ),
    _Table(
        "workspace_agents",
        3,
        "workspace_id build_number position id name auth_token auth_instance_id apps",
        _agent_rows,
    ),
    _Table(
        "tasks",
        1,
        "position id workspace_id name app_slug app_url prompt created_at deleted",
        _task_rows,
    ),
    _Table("task_snapshots", 1, "task_id log_snapshot body log_snapshot_created_at", _snapshot_rows),
    _Table(
        "workspace_app_statuses",
        2,
        "workspace_id position app_slug state message uri created_at",
        _status_rows,
    ),
    _Table("notifications", 1, "position template task_id workspace minute labels", _notification_rows),
    _Table(
        "executions",
        1,
        "id run_id status result error started_at completed_at duration_ms",
        _execution_rows,
    ),
)


class Store:
    """One sqlite file (None: memory), which one simulator at a time may open.

    Raises `SimulatorError` when the file was not written by this version of the simulator, or another one has
    it open.
    """

    def __init__(self, path: Path | str | None) -> None:
        self._path = path
        self._written: dict[str, dict[Row, Row]] = {table.name: {} for table in _TABLES}
        hint = "use a file that a simulator has written, and only one simulator at a time"
        try:
            self._db = sqlite3.connect(str(path or ":memory:"), isolation_level=None, timeout=0)
        except sqlite3.Error as exc:
            raise SimulatorError(f"state {path}: {exc}", hint=hint) from None
        try:
            self._open()
        except sqlite3.Error as exc:
            self._db.close()
            raise SimulatorError(f"state {path}: {exc}", hint=hint) from None
        except SimulatorError:
            self._db.close()
            raise

    def load(self, records: Records) -> None:
        """Load the stored rows into new `records`."""
        rows = {
            table.name: [tuple(row) for row in self._db.execute(table.sql("select"))] for table in _TABLES
        }
        for table in _TABLES:
            self._written[table.name] = {row[: table.keys]: row for row in rows[table.name]}
        records.identity.update(dict(rows["meta"]))
        _load_workspaces(records, rows)
        for _, task_id, ws_id, name, slug, url, prompt, created_at, deleted in rows["tasks"]:
            workspace = records.workspaces.get(ws_id) if ws_id else None
            records.tasks[task_id] = Task(
                task_id, workspace, name, slug, url, prompt, created_at, bool(deleted)
            )
        for task_id, envelope, body, created_at in rows["task_snapshots"]:
            records.snapshots[task_id] = StoredSnapshot(json.loads(envelope), body, created_at)
        for ws_id, _, *values in rows["workspace_app_statuses"]:
            records.app_statuses.setdefault(ws_id, []).append(AppStatus(*values))
        for _, template, task_id, workspace_name, minute, labels in rows["notifications"]:
            pairs = tuple((name, value) for name, value in json.loads(labels))
            records.notifications.append(Notification(template, task_id, workspace_name, minute, pairs))
        for row in rows["executions"]:
            records.executions[row[0]] = Execution(*row)

    def commit(self, records: Records) -> None:
        """Write all changes since the last commit in one transaction."""
        changes: list[tuple[str, list[Row]]] = []
        rows = {table.name: {row[: table.keys]: row for row in table.rows(records)} for table in _TABLES}
        for table in _TABLES:
            before, after = self._written[table.name], rows[table.name]
            changes.append((table.sql("delete"), [key for key in before if key not in after]))
            changes.append(
                (table.sql("write"), [row for key, row in after.items() if before.get(key) != row])
            )
        if not any(parameters for _, parameters in changes):
            return
        with self._transaction():
            for statement, parameters in changes:
                self._db.executemany(statement, parameters)
        self._written = rows

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _open(self) -> None:
        # The lock lasts for the life of the process; the kernel releases it when the process is killed.
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        with self._transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise SimulatorError(f"state {self._path}: the file is another program's database")
            if version == 0:
                for table in _TABLES:
                    self._db.execute(table.sql("create"))
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise SimulatorError(
                    f"state {self._path}: written by another version (schema {version}; this version reads {SCHEMA_VERSION})"
                )

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db)


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK after an exception."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _load_workspaces(records: Records, rows: dict[str, list[Row]]) -> None:
    for _, ws_id, name, owner_id, token, lifecycle, health, connected, bumps in rows["workspaces"]:
        records.workspaces.put(
            Workspace(
                ws_id,
                name,
                owner_id,
                token,
                agent_lifecycle=lifecycle,
                app_health=health,
                agent_connected=bool(connected),
                deadline_bumps=json.loads(bumps),
            )
        )
    for ws_id, number, transition, initiator, stage, job, error, reason, created_at in rows[
        "workspace_builds"
    ]:
        build = Build(number, transition, initiator, Stage(stage), Job(job), error, reason, created_at)
        records.workspaces.get(ws_id).builds.append(build)
    for ws_id, number, _, agent_id, name, token, instance_id, apps in rows["workspace_agents"]:
        agent = Agent(agent_id, name, token, tuple(json.loads(apps)), instance_id)
        records.workspaces.get(ws_id).builds[number - 1].agents.append(agent)
