"""Workspaces, their builds and agents, and which agent token opens the door when.

The state is coderd's: a workspace is its builds, a build carries the agents its job recorded. Whether a token is
valid is never stored, it follows from the builds.
"""

import enum
import uuid
from dataclasses import dataclass, field

from agentd.simulator.faults import SimulatorError

PREBUILDS_USER = "c42fdf75-3097-471c-8c33-fb52454d81c0"
NIL_UUID = "00000000-0000-0000-0000-000000000000"


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
    """An agent as one build recorded it; the next build records another row, with the same token or a new one."""

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
    """One workspace. `token` is the newest agent's, whether it opens anything now or not."""

    id: str
    name: str
    owner_id: str
    token: str
    builds: list[Build] = field(default_factory=list)
    agent_lifecycle: str = "ready"
    app_health: str = "healthy"
    agent_connected: bool = True
    """Whether coderd can dial the agent: live logs and sends go that way."""
    deadline_bumps: list[float] = field(default_factory=list)

    @property
    def latest(self) -> Build:
        return self.builds[-1]

    @property
    def agent(self) -> Agent:
        """The newest agent any build recorded."""
        return next(build.agents[0] for build in reversed(self.builds) if build.agents)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a token let in."""

    workspace: Workspace
    build: Build
    agent: Agent


class Workspaces:
    """All of them, and the steps they take. A step coderd would not take raises `SimulatorError`."""

    def __init__(self) -> None:
        self._all: dict[str, Workspace] = {}

    def all(self) -> list[Workspace]:
        return list(self._all.values())

    def get(self, workspace_id: str) -> Workspace:
        return self._all[workspace_id]

    def put(self, workspace: Workspace) -> None:
        """Take over a workspace as it was stored."""
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
        """A workspace whose first build, by its owner, has succeeded."""
        token = token or str(uuid.uuid4())
        workspace = Workspace(
            workspace_id or str(uuid.uuid4()), f"workspace-{len(self._all) + 1}", owner_id, token
        )
        if workspace.id in self._all:
            raise SimulatorError(f"workspace {workspace.id} exists")
        agent = Agent(str(uuid.uuid4()), agent_name, token, apps)
        workspace.builds.append(Build(1, "start", owner_id, stage, created_at=now, agents=[agent]))
        self._all[workspace.id] = workspace
        return workspace

    def claim_start(self, workspace: Workspace, owner_id: str, *, now: float, job: Job = Job.RUNNING) -> None:
        """The owner changes and the claim build is inserted, in one transaction; its agents come when it is done."""
        if workspace.owner_id != PREBUILDS_USER:
            raise SimulatorError(f"workspace {workspace.name} is no unclaimed prebuild")
        workspace.owner_id = owner_id
        self._append(workspace, Build(0, "start", owner_id, Stage.CLAIM, job, created_at=now))

    def claim_finish(self, workspace: Workspace) -> None:
        """The claim job has succeeded: the new build's agent carries the same token."""
        build = self._running(workspace, "start", Stage.CLAIM)
        build.agents.append(_next_agent(workspace, workspace.agent.token))
        build.job = Job.SUCCEEDED

    def claim_fail(self, workspace: Workspace, error: str, *, agents_recorded: bool) -> None:
        """The claim job has failed. Normally no agents are recorded, so the token is dead for good."""
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
        """A later start build; returns its agent's (new) token, which is good once the job has succeeded."""
        self._refuse_running(workspace)
        pending = Job.RUNNING if job is Job.SUCCEEDED else job
        self._append(workspace, Build(0, "start", initiator_id, reason=reason, job=pending, created_at=now))
        workspace.agent_lifecycle = ""
        return self.start_finish(workspace, token=token) if job is Job.SUCCEEDED else workspace.token

    def start_finish(self, workspace: Workspace, *, token: str | None = None, error: str = "") -> str:
        """The start job has ended: well, with an agent and its new token, or with `error` and neither."""
        build = self._running(workspace, "start", Stage.NONE)
        if error:
            build.job, build.error = Job.FAILED, error
            return workspace.token
        workspace.token = token or str(uuid.uuid4())
        build.agents.append(_next_agent(workspace, workspace.token))
        build.job, workspace.agent_lifecycle = Job.SUCCEEDED, "ready"
        return workspace.token

    def run_job(self, workspace: Workspace) -> None:
        """A provisioner takes the pending job of the latest build."""
        if workspace.latest.job is not Job.PENDING:
            raise SimulatorError(f"workspace {workspace.name} has no pending job")
        workspace.latest.job = Job.RUNNING

    def stop_start(
        self, workspace: Workspace, *, now: float, job: Job = Job.RUNNING, reason: str = "initiator"
    ) -> None:
        """A stop build; its job is pending or running."""
        self._refuse_running(workspace)
        self._append(workspace, Build(0, "stop", workspace.owner_id, job=job, reason=reason, created_at=now))

    def stop_finish(self, workspace: Workspace, *, error: str = "") -> None:
        """The stop job has ended, well or with `error`."""
        build = self._running(workspace, "stop", Stage.NONE)
        build.job, build.error = (Job.FAILED if error else Job.SUCCEEDED), error
        workspace.agent_lifecycle = "off"

    def delete(self, workspace: Workspace, *, now: float) -> None:
        """A delete build: from its insertion on, no agent of the workspace may talk."""
        self._append(workspace, Build(0, "delete", workspace.owner_id, job=Job.RUNNING, created_at=now))

    def authenticate(self, token: str, *, stop_auth: bool) -> Caller | None:
        """Whom `token` lets in now (`GetAuthenticatedWorkspaceAgentAndBuildByAuthToken`)."""
        for workspace in self._all.values():
            for build in workspace.builds:
                for agent in build.agents:
                    if agent.token == token and _may_talk(workspace, build, stop_auth):
                        return Caller(workspace, build, agent)
        return None

    def of_instance(self, instance_id: str) -> list[Caller]:
        """The agents whose rows carry `instance_id`, newest build first."""
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
            raise SimulatorError(f"workspace {workspace.name} has no such job running")
        return build

    def _refuse_running(self, workspace: Workspace) -> None:
        if workspace.latest.job in (Job.PENDING, Job.RUNNING):
            raise SimulatorError(f"workspace {workspace.name}: a build is already active")


def _next_agent(workspace: Workspace, token: str) -> Agent:
    """The row the next build records for the same agent."""
    old = workspace.agent
    return Agent(str(uuid.uuid4()), old.name, token, old.apps, old.instance_id)


def _may_talk(workspace: Workspace, build: Build, stop_auth: bool) -> bool:
    latest = workspace.latest
    if build is latest:
        return build.transition != "delete"
    # The shutdown rule: the stop build right after a good start, for as long as its job is at work.
    return (
        stop_auth
        and build.transition == "start"
        and build.job is Job.SUCCEEDED
        and latest.number == build.number + 1
        and latest.transition == "stop"
        and latest.job in (Job.PENDING, Job.RUNNING)
    )
