"""Workspaces, their builds and agents, and the validity of agent tokens.

As in coderd, a workspace has builds, and a build has the agents that its job recorded. The validity of a
token is not stored; it follows from the builds.
"""

import enum
import uuid
from dataclasses import dataclass, field
from typing import Final

from agentd.simulator.faults import SimulatorError

PREBUILDS_USER: Final = "c42fdf75-3097-471c-8c33-fb52454d81c0"
NIL_UUID: Final = "00000000-0000-0000-0000-000000000000"


class Job(enum.StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Stage(enum.IntEnum):
    """`prebuilt_workspace_stage` of a build job's input."""

    NONE = 0
    CREATE = 1
    CLAIM = 2


@dataclass(slots=True)
class Agent:
    """An agent as one build recorded it.

    The next build records a new row, with the same token or a new one.
    """

    id: str
    name: str
    token: str
    apps: tuple[str, ...] = ()
    instance_id: str = ""


@dataclass(slots=True)
class Build:
    number: int
    transition: str
    initiator_id: str
    stage: Stage = Stage.NONE
    job: Job = Job.SUCCEEDED
    error: str = ""
    reason: str = "initiator"
    created_at: float = 0.0
    agents: list[Agent] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Workspace:
    """One workspace. `token` is that of the newest agent, valid or not."""

    id: str
    name: str
    owner_id: str
    token: str
    builds: list[Build] = field(default_factory=list)
    agent_lifecycle: str = "ready"
    app_health: str = "healthy"
    agent_connected: bool = True
    """Whether coderd can connect to the agent, for live logs and sends."""
    deadline_bumps: list[float] = field(default_factory=list)

    @property
    def latest(self) -> Build:
        return self.builds[-1]

    @property
    def agent(self) -> Agent:
        """The newest recorded agent."""
        return next(build.agents[0] for build in reversed(self.builds) if build.agents)


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated agent of a request."""

    workspace: Workspace
    build: Build
    agent: Agent


class Workspaces:
    """All workspaces and their transitions. A transition that coderd refuses raises `SimulatorError`."""

    def __init__(self) -> None:
        self._all: dict[str, Workspace] = {}

    def all(self) -> list[Workspace]:
        return list(self._all.values())

    def get(self, workspace_id: str) -> Workspace:
        return self._all[workspace_id]

    def put(self, workspace: Workspace) -> None:
        """Add a stored workspace."""
        self._all[workspace.id] = workspace

    def add(
        self,
        *,
        owner_id: str,
        stage: Stage,
        token: str | None,
        workspace_id: str | None,
        agent_name: str,
        apps: tuple[str, ...],
        now: float,
    ) -> Workspace:
        """Create a workspace whose first build, initiated by its owner, has succeeded."""
        token = token or str(uuid.uuid4())
        workspace = Workspace(
            workspace_id or str(uuid.uuid4()), f"workspace-{len(self._all) + 1}", owner_id, token
        )
        if workspace.id in self._all:
            raise SimulatorError(f"workspace {workspace.id} already exists")
        agent = Agent(str(uuid.uuid4()), agent_name, token, apps)
        workspace.builds.append(Build(1, "start", owner_id, stage, created_at=now, agents=[agent]))
        self._all[workspace.id] = workspace
        return workspace

    def claim_start(self, workspace: Workspace, owner_id: str, *, now: float, job: Job = Job.RUNNING) -> None:
        """Change the owner and insert the claim build, in one transaction.

        `claim_finish` records its agents.
        """
        if workspace.owner_id != PREBUILDS_USER:
            raise SimulatorError(f"workspace {workspace.name} is not an unclaimed prebuild")
        workspace.owner_id = owner_id
        self._append(workspace, Build(0, "start", owner_id, Stage.CLAIM, job, created_at=now))

    def claim_finish(self, workspace: Workspace) -> None:
        """Let the claim job succeed. The agent of its build has the same token."""
        build = self._running(workspace, "start", Stage.CLAIM)
        build.agents.append(_next_agent(workspace, workspace.agent.token))
        build.job = Job.SUCCEEDED

    def claim_fail(self, workspace: Workspace, error: str, *, agents_recorded: bool) -> None:
        """Let the claim job fail. Normally no agents are recorded, so the token stays invalid."""
        build = self._running(workspace, "start", Stage.CLAIM)
        if agents_recorded:
            build.agents.append(_next_agent(workspace, workspace.agent.token))
        build.job, build.error = Job.FAILED, error

    def start(
        self,
        workspace: Workspace,
        initiator_id: str,
        *,
        token: str | None,
        now: float,
        reason: str = "initiator",
        job: Job = Job.SUCCEEDED,
    ) -> str:
        """Insert a later start build. Returns the newest token: a new one if the job has succeeded."""
        self._refuse_running(workspace)
        pending = Job.RUNNING if job is Job.SUCCEEDED else job
        self._append(workspace, Build(0, "start", initiator_id, reason=reason, job=pending, created_at=now))
        workspace.agent_lifecycle = ""
        return self.start_finish(workspace, token=token) if job is Job.SUCCEEDED else workspace.token

    def start_finish(self, workspace: Workspace, *, token: str | None = None, error: str = "") -> str:
        """End the start job: with an agent and a new token, or with `error` and without an agent."""
        build = self._running(workspace, "start", Stage.NONE)
        if error:
            build.job, build.error = Job.FAILED, error
            return workspace.token
        workspace.token = token or str(uuid.uuid4())
        build.agents.append(_next_agent(workspace, workspace.token))
        build.job, workspace.agent_lifecycle = Job.SUCCEEDED, "ready"
        return workspace.token

    def run_job(self, workspace: Workspace) -> None:
        """Set the pending job of the latest build to running."""
        if workspace.latest.job is not Job.PENDING:
            raise SimulatorError(f"workspace {workspace.name} has no pending job")
        workspace.latest.job = Job.RUNNING

    def stop_start(
        self, workspace: Workspace, *, now: float, job: Job = Job.RUNNING, reason: str = "initiator"
    ) -> None:
        """Insert a stop build. Its job is pending or running."""
        self._refuse_running(workspace)
        self._append(workspace, Build(0, "stop", workspace.owner_id, job=job, reason=reason, created_at=now))

    def stop_finish(self, workspace: Workspace, *, error: str = "") -> None:
        """End the stop job, successfully or with `error`."""
        build = self._running(workspace, "stop", Stage.NONE)
        build.job, build.error = (Job.FAILED if error else Job.SUCCEEDED), error
        workspace.agent_lifecycle = "off"

    def delete(self, workspace: Workspace, *, now: float) -> None:
        """Insert a delete build, which invalidates the tokens of all agents of the workspace."""
        self._refuse_running(workspace)
        self._append(workspace, Build(0, "delete", workspace.owner_id, job=Job.RUNNING, created_at=now))

    def authenticate(self, token: str, *, stop_auth: bool) -> Caller | None:
        """The agent that `token` authenticates (`GetAuthenticatedWorkspaceAgentAndBuildByAuthToken`)."""
        for workspace in self._all.values():
            for build in workspace.builds:
                for agent in build.agents:
                    if agent.token == token and _is_authorized(workspace, build, stop_auth):
                        return Caller(workspace, build, agent)
        return None

    def of_instance(self, instance_id: str) -> list[Caller]:
        """The agents with `instance_id`, newest build first."""
        return [
            Caller(workspace, build, agent)
            for workspace in self._all.values()
            for build in reversed(workspace.builds)
            for agent in build.agents
            if agent.instance_id == instance_id
        ]

    def _append(self, workspace: Workspace, build: Build) -> None:
        build.number = workspace.latest.number + 1
        workspace.builds.append(build)

    def _running(self, workspace: Workspace, transition: str, stage: Stage) -> Build:
        build = workspace.latest
        busy = build.job in (Job.PENDING, Job.RUNNING)
        if not busy or (build.transition, build.stage) != (transition, stage):
            kind = "claim" if stage is Stage.CLAIM else transition
            raise SimulatorError(f"workspace {workspace.name}: no {kind} build is in progress")
        return build

    def _refuse_running(self, workspace: Workspace) -> None:
        if workspace.latest.job in (Job.PENDING, Job.RUNNING):
            raise SimulatorError(f"workspace {workspace.name}: a build is already active")


def _next_agent(workspace: Workspace, token: str) -> Agent:
    """The row that the next build records for the same agent."""
    old = workspace.agent
    return Agent(str(uuid.uuid4()), old.name, token, old.apps, old.instance_id)


def _is_authorized(workspace: Workspace, build: Build, stop_auth: bool) -> bool:
    """Whether the agents of `build` are authorized now."""
    latest = workspace.latest
    if build is latest:
        return build.transition != "delete"
    # The shutdown rule: the agents of a successful start build, while the job of the stop build after it is
    # not done.
    return (
        stop_auth
        and build.transition == "start"
        and build.job is Job.SUCCEEDED
        and latest.number == build.number + 1
        and latest.transition == "stop"
        and latest.job in (Job.PENDING, Job.RUNNING)
    )
