"""The operations on a simulated coderd's workspaces and tasks.

Each one is a transaction, which is stored at once.
"""

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

from agentd.simulator import sse
from agentd.simulator.coderd.records import AppStatus, Execution, Notification, StoredSnapshot, Task
from agentd.simulator.coderd.routes import reinit
from agentd.simulator.coderd.workspaces import PREBUILDS_USER, Job, Stage, Workspace
from agentd.simulator.coderd.world import World


class CoderdOperations:
    """The operations of `SimulatedCoderd`. An operation that coderd refuses raises `SimulatorError`."""

    _world: World

    @property
    def user_id(self) -> str:
        """The default user of claims and builds."""
        return self._world.identity["user_id"]

    @property
    def user_token(self) -> str:
        """The user's API key, for the user-facing routes."""
        return self._world.identity["user_token"]

    def add_prebuild(
        self,
        token: str | None = None,
        workspace_id: str | None = None,
        agent_name: str = "main",
        apps: tuple[str, ...] = ("agentapi",),
    ) -> Workspace:
        """Add an unclaimed prebuilt workspace with a running agent."""
        return self._add(PREBUILDS_USER, Stage.CREATE, token, workspace_id, agent_name, apps)

    def add_workspace(
        self,
        owner_id: str | None = None,
        token: str | None = None,
        workspace_id: str | None = None,
        agent_name: str = "main",
        apps: tuple[str, ...] = ("agentapi",),
    ) -> Workspace:
        """Add a regular workspace, built by its owner."""
        return self._add(owner_id or self.user_id, Stage.NONE, token, workspace_id, agent_name, apps)

    def claim_start(self, ws: Workspace, owner_id: str | None = None, *, job: Job = Job.RUNNING) -> None:
        """Let a user claim the prebuild. Its token gets 401 from now on; open streams stay open."""
        self._world.workspaces.claim_start(ws, owner_id or self.user_id, now=self._world.now(), job=job)
        self._world.commit()

    async def claim_finish(self, ws: Workspace, *, publish: bool = True) -> None:
        """Let the claim job succeed: the token is valid again, and the open streams get the event.

        `publish=False` loses the event, an error that coderd only logs.
        """
        self._world.workspaces.claim_finish(ws)
        self._world.commit()
        if publish:
            await self.publish(ws, reinit.claim_event(self._world, ws))

    def claim_fail(
        self, ws: Workspace, error: str = "terraform apply failed", agents_recorded: bool = False
    ) -> None:
        """Let the claim job fail. The token gets 401, or 409 if agents were recorded."""
        self._world.workspaces.claim_fail(ws, error, agents_recorded=agents_recorded)
        self._world.commit()

    def start_build(
        self,
        ws: Workspace,
        initiator_id: str | None = None,
        token: str | None = None,
        *,
        job: Job = Job.SUCCEEDED,
    ) -> str:
        """Add a later start build, which by default succeeds at once.

        Returns the newest agent token (also `ws.token`).
        """
        newest = self._world.workspaces.start(
            ws, initiator_id or self.user_id, token=token, now=self._world.now(), job=job
        )
        self._world.commit()
        return newest

    def start_finish(self, ws: Workspace, *, error: str = "", token: str | None = None) -> str:
        """End the start build: with a new token, or with `error`. Returns the newest token."""
        newest = self._world.workspaces.start_finish(ws, token=token, error=error)
        self._world.commit()
        return newest

    def run_job(self, ws: Workspace) -> None:
        """Let the pending job of the latest build run."""
        self._world.workspaces.run_job(ws)
        self._world.commit()

    def stop_start(self, ws: Workspace, *, job: Job = Job.RUNNING) -> None:
        """Begin a stop build. The token stays valid while the job runs."""
        self._world.workspaces.stop_start(ws, job=job, now=self._world.now())
        self._world.commit()

    def stop_finish(self, ws: Workspace, *, error: str = "") -> None:
        """End the stop build. The token gets 401 from now on."""
        self._world.workspaces.stop_finish(ws, error=error)
        self._world.commit()

    def delete_build(self, ws: Workspace) -> None:
        """Begin a delete build.

        The token gets 401 at once; the workspace's tasks and their snapshots are deleted.
        """
        self._world.workspaces.delete(ws, now=self._world.now())
        for task in self._world.tasks.values():
            if task.workspace is ws:
                self._world.drop_task(task)
        self._world.commit()

    def set_instance(self, ws: Workspace, instance_id: str) -> None:
        """Give the agent of `ws`, also that of later builds, the instance id of its cloud."""
        ws.agent.instance_id = instance_id
        self._world.commit()

    def set_agent(
        self,
        ws: Workspace,
        *,
        lifecycle: str | None = None,
        app_health: str | None = None,
        connected: bool | None = None,
    ) -> None:
        """Set what coderd knows of the agent: lifecycle ("" to "off"), health of its app, connection."""
        if lifecycle is not None:
            ws.agent_lifecycle = lifecycle
        if app_health is not None:
            ws.app_health = app_health
        if connected is not None:
            ws.agent_connected = connected
        self._world.commit()

    async def publish(self, ws: Workspace, event: Mapping[str, Any] | bytes) -> None:
        """Send on every open stream of `ws`, in one chunk: a mapping as a `data` event, bytes unchanged."""
        raw = event if isinstance(event, bytes) else sse.event("data", dict(event))
        await asyncio.gather(*(stream.send(raw) for stream in self._world.open_streams(ws)))

    def add_task(
        self,
        ws: Workspace | None,
        task_id: str | None = None,
        *,
        app_slug: str = "agentapi",
        app_url: str = "",
        initial_prompt: str = "",
    ) -> str:
        """Add a task of `ws` (None: without a workspace) and return its id.

        `app_url` is its AgentAPI, for live logs.
        """
        task_id = task_id or str(uuid.uuid4())
        self._world.tasks[task_id] = Task(
            task_id, ws, f"task-{task_id[:8]}", app_slug, app_url, initial_prompt, self._world.now()
        )
        self._world.commit()
        return task_id

    def delete_task(self, task_id: str) -> None:
        """Soft-delete the task and delete its snapshot."""
        self._world.drop_task(self._world.tasks[task_id])
        self._world.commit()

    @property
    def workspaces(self) -> list[Workspace]:
        """All workspaces, oldest first."""
        return self._world.workspaces.all()

    @property
    def tasks(self) -> dict[str, Task]:
        """All tasks by id, with deleted ones."""
        return self._world.tasks

    @property
    def snapshots(self) -> dict[str, StoredSnapshot]:
        """The stored snapshots, by task id."""
        return self._world.snapshots

    @property
    def app_statuses(self) -> dict[str, list[AppStatus]]:
        """The reported statuses by workspace id, oldest first. Every workspace has a list."""
        for workspace in self._world.workspaces.all():
            self._world.app_statuses.setdefault(workspace.id, [])
        return self._world.app_statuses

    @property
    def notifications(self) -> list[Notification]:
        """The notifications that the user got."""
        return self._world.notifications

    @property
    def executions(self) -> dict[str, Execution]:
        """The runs of agents, by id."""
        return self._world.executions

    def _add(
        self,
        owner_id: str,
        stage: Stage,
        token: str | None,
        workspace_id: str | None,
        agent_name: str,
        apps: tuple[str, ...],
    ) -> Workspace:
        workspace = self._world.workspaces.add(
            owner_id=owner_id,
            stage=stage,
            token=token,
            workspace_id=workspace_id,
            agent_name=agent_name,
            apps=apps,
            now=self._world.now(),
        )
        self._world.commit()
        return workspace
