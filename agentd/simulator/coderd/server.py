"""The simulated coderd: the steps of its workspaces, the faults of its network, and what it was asked."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

from agentd.simulator import sse
from agentd.simulator.coderd import eras
from agentd.simulator.coderd.admin import Admin
from agentd.simulator.coderd.gate import RateLimit
from agentd.simulator.coderd.router import ROUTE_NAMES, Router
from agentd.simulator.coderd.routes import reinit
from agentd.simulator.coderd.workspaces import PREBUILDS_USER, Job, Stage, Workspace
from agentd.simulator.coderd.world import AppStatus, Notification, StoredSnapshot, Task, World
from agentd.simulator.faults import Fault, FaultPlan, SimulatorError
from agentd.simulator.serving import Cut, Listener, RecordedRequest, RequestLog, cut, reset


class SimulatedCoderd:
    """A coderd on 127.0.0.1, for `async with`.

    `era` is E1 to E5; `flush="eager"` sends a stream's headers at once (coderd waits for the first event or ping);
    `ping_s` is the ping's period; `rate_limit` counts per client address, path and minute (0: none);
    `sleep` paces pings and `now` is the server's clock (Unix seconds).
    """

    def __init__(
        self,
        *,
        era: str = "E3",
        ping_s: float = 15.0,
        flush: Literal["lazy", "eager"] = "lazy",
        rate_limit: int = 512,
        enable_tasks: bool = True,
        port: int = 0,
        build_version: str | None = None,
        admin: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._now = now
        self._clock_offset_s = 0.0
        self.era = era
        self.user_id = str(uuid.uuid4())
        """Who claims and starts when nobody else is named."""
        self.user_token = f"{uuid.uuid4().hex[:10]}-{uuid.uuid4().hex[:22]}"
        """An API key of that user, for the user-facing routes."""
        self._world = World(
            behaviour=eras.behaviour(era, build_version=build_version, enable_tasks=enable_tasks),
            manners=sse.Manners(eager=flush == "eager", ping_s=ping_s),
            now=self.now,
            sleep=sleep,
        )
        self._log = RequestLog(self.now, self._world.changes)
        self._faults = FaultPlan()
        self._router = Router(
            self._world,
            log=self._log,
            plan=self._faults,
            limit=RateLimit(rate_limit, self.now),
            user_token=self.user_token,
            admin=Admin(self).handle if admin else None,
        )
        self._listener = Listener(self._router.handle, host="127.0.0.1", port=port)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        return self._listener.url

    @property
    def port(self) -> int:
        return self._listener.port

    # --- the server itself ---

    async def start(self) -> None:
        """Listen: on the same port and with the same state as before, if there was a before."""
        await self._listener.start()

    async def stop(self) -> None:
        """Go away as coderd does when it is restarted: streams end in order, connections close, the port refuses."""
        await self._break_off("eof")
        await self._listener.stop()
        await self._router.close()

    async def drop_connections(self, how: Cut = "eof") -> None:
        """End every open connection, and go on listening. Returns when the streams are gone (not for half_open)."""
        if how == "half_open":
            for transport in self._listener.transports():
                transport.pause_reading()
        await self._break_off(how)
        for transport in self._listener.transports():
            if how == "reset":
                reset(transport)
            elif how == "cut":
                cut(transport)

    async def _break_off(self, how: Cut) -> None:
        streams = self._world.open_streams()
        for stream in streams:
            stream.break_off(how)
        if how != "half_open":
            await asyncio.gather(*(stream.closed.wait() for stream in streams))

    def now(self) -> float:
        """The server's clock, Unix seconds."""
        return self._now() + self._clock_offset_s

    def advance_clock(self, seconds: float) -> None:
        """Step the server's clock: rate limit windows, notification minutes, snapshot times."""
        self._clock_offset_s += seconds

    # --- workspaces ---

    def add_prebuild(
        self,
        token: str | None = None,
        workspace_id: str | None = None,
        agent_name: str = "main",
        apps: tuple[str, ...] = ("agentapi",),
    ) -> Workspace:
        """An unclaimed prebuilt workspace, its agent running."""
        return self._world.workspaces.add(
            owner_id=PREBUILDS_USER,
            stage=Stage.CREATE,
            token=token,
            workspace_id=workspace_id,
            agent_name=agent_name,
            apps=apps,
        )

    def add_workspace(
        self,
        owner_id: str | None = None,
        token: str | None = None,
        workspace_id: str | None = None,
        agent_name: str = "main",
        apps: tuple[str, ...] = ("agentapi",),
    ) -> Workspace:
        """A regular workspace, built by its owner."""
        return self._world.workspaces.add(
            owner_id=owner_id or self.user_id,
            stage=Stage.NONE,
            token=token,
            workspace_id=workspace_id,
            agent_name=agent_name,
            apps=apps,
        )

    def claim_start(self, ws: Workspace, owner_id: str | None = None, *, job: Job = Job.RUNNING) -> None:
        """A user claims the prebuild: from now on its token is 401, while open streams live on."""
        self._world.workspaces.claim_start(ws, owner_id or self.user_id, now=self.now(), job=job)

    async def claim_finish(self, ws: Workspace, *, publish: bool = True) -> None:
        """The claim job has succeeded: the token is good again and the event goes to the open streams.

        `publish=False` loses the event on its way, which coderd only logs.
        """
        self._world.workspaces.claim_finish(ws)
        if publish:
            await self.publish(ws, reinit.claim_event(self._world, ws))

    def claim_fail(
        self, ws: Workspace, error: str = "terraform apply failed", agents_recorded: bool = False
    ) -> None:
        """The claim job has failed: 401 for ever, or 409 if agents were recorded nevertheless."""
        self._world.workspaces.claim_fail(ws, error, agents_recorded=agents_recorded)

    def start_build(self, ws: Workspace, initiator_id: str | None = None, token: str | None = None) -> str:
        """A later start build, done. Returns the new agent token (also `ws.token`)."""
        return self._world.workspaces.start(ws, initiator_id or self.user_id, token=token, now=self.now())

    def stop_start(self, ws: Workspace, *, job: Job = Job.RUNNING) -> None:
        """A stop build has begun: the token stays good while it runs."""
        self._world.workspaces.stop_start(ws, job=job, now=self.now())

    def stop_finish(self, ws: Workspace, *, error: str = "") -> None:
        """The stop build is done: 401."""
        self._world.workspaces.stop_finish(ws, error=error)

    def delete_build(self, ws: Workspace) -> None:
        """A delete build has begun: 401 at once, and the workspace's tasks go with their snapshots."""
        self._world.workspaces.delete(ws, now=self.now())
        for task in self._world.tasks.values():
            if task.workspace is ws:
                self._world.drop_task(task)

    def set_instance(self, ws: Workspace, instance_id: str) -> None:
        """Let the agent of `ws` (and those of later builds) be found by its cloud's instance id."""
        ws.agent.instance_id = instance_id

    async def publish(self, ws: Workspace, event: Mapping[str, Any] | bytes) -> None:
        """Send on every open stream of `ws`: a mapping as a `data` event, bytes as they are, in one chunk."""
        raw = event if isinstance(event, bytes) else sse.event("data", dict(event))
        await asyncio.gather(*(stream.send(raw) for stream in self._world.open_streams(ws)))

    # --- tasks ---

    def add_task(
        self,
        ws: Workspace,
        task_id: str | None = None,
        *,
        app_slug: str = "agentapi",
        app_url: str = "",
        initial_prompt: str = "",
    ) -> str:
        """A task that runs in `ws`; `app_url` is its AgentAPI, for live logs. Returns its id."""
        task_id = task_id or str(uuid.uuid4())
        self._world.tasks[task_id] = Task(
            task_id, ws, f"task-{task_id[:8]}", app_slug, app_url, initial_prompt
        )
        return task_id

    def delete_task(self, task_id: str) -> None:
        """Soft-delete the task; its snapshot goes in the same step."""
        self._world.drop_task(self._world.tasks[task_id])

    @property
    def workspaces(self) -> list[Workspace]:
        """All workspaces, oldest first."""
        return self._world.workspaces.all()

    @property
    def tasks(self) -> dict[str, Task]:
        """All tasks by id, deleted ones included."""
        return self._world.tasks

    @property
    def snapshots(self) -> dict[str, StoredSnapshot]:
        """What was stored, by task id."""
        return self._world.snapshots

    @property
    def app_statuses(self) -> dict[str, list[AppStatus]]:
        """Reported statuses, oldest first, by workspace id (an empty list where nothing was reported)."""
        for workspace in self._world.workspaces.all():
            self._world.app_statuses.setdefault(workspace.id, [])
        return self._world.app_statuses

    @property
    def notifications(self) -> list[Notification]:
        """What the user was sent."""
        return self._world.notifications

    # --- what it saw ---

    @property
    def requests(self) -> list[RecordedRequest]:
        """Everything received, in order of arrival."""
        return self._log.entries

    def calls(self, route: str) -> list[RecordedRequest]:
        """The requests of one route: reinit, log-snapshot, app-status, identity, task-logs, …"""
        return self._log.of(route)

    def open_streams(self, ws: Workspace) -> int:
        """How many reinit requests of `ws` are being held."""
        return len(self._world.open_streams(ws))

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait for `predicate()`, asked again whenever a request, an answer or a stream comes or goes."""
        await self._world.changes.until(predicate)

    # --- faults ---

    def fail_next(
        self,
        route: str,
        status: int,
        body: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
        times: int = 1,
        content_type: str | None = None,
    ) -> None:
        """Answer the next `times` requests of `route` ("*": any) with this, before any check."""
        self.fault(
            route,
            "respond",
            times=times,
            status=status,
            body=body,
            headers=headers or {},
            content_type=content_type,
        )

    def fault(self, route: str, kind: str, *, times: int = 1, **params: Any) -> None:  # noqa: ANN401 - per kind
        """Let the next `times` requests of `route` meet a fault; kinds and parameters: `faults.play`, `sse.Manners`."""
        if route != "*" and route not in ROUTE_NAMES:
            raise SimulatorError(f"no such route: {route!r}", hint=f"known: {', '.join(sorted(ROUTE_NAMES))}")
        self._faults.add(route, Fault(kind, params), times)

    def clear_faults(self) -> None:
        """Forget the faults nobody met."""
        self._faults.clear()
