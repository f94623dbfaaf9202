"""Compute the status of the task, in coderd's values, from what a sidecar can see: the agent, the claim and the reports.

coderd computes it from the build, the agent's lifecycle and the app's health (view `tasks_with_status`). A sidecar sees
only the claim and the app. The values mean the same, so that a script for one can read the other:

    pending        the workspace is a prebuild that has not been claimed
    initializing   starting; the message says what it waits for
    active         the agent answers; the task's state says what it does
    paused         the agent answered and has stopped; the conversation is in the snapshot
    error          something answers that is not a working agent
    unknown        the agent has not been observed
"""

import enum
from typing import Any, Final, NamedTuple

from agentd.agents.agent import Activity
from agentd.claims.answers import ClaimsState
from agentd.claims.listener import ClaimListener
from agentd.local_api.replies import ApiError
from agentd.stability.status_report import TaskState
from agentd.stability.task_reports import TaskReports
from agentd.stability.tracker import AgentStatus, Evidence, Tracker


class TaskStatus(enum.Enum):
    """coderd's `TaskStatus`."""

    PENDING = "pending"
    INITIALIZING = "initializing"
    ACTIVE = "active"
    PAUSED = "paused"
    UNKNOWN = "unknown"
    ERROR = "error"


class DescribedStatus(NamedTuple):
    """A status, and a sentence about it."""

    status: TaskStatus
    message: str


# Before the agent has answered. In the other states of the claim there is nothing to wait for but the app.
_BEFORE_THE_AGENT: Final = {
    ClaimsState.LISTENING: DescribedStatus(TaskStatus.PENDING, "Waiting for the workspace to be claimed"),
    ClaimsState.ACTING: DescribedStatus(TaskStatus.INITIALIZING, "Workspace is starting"),
    ClaimsState.CONNECTING: DescribedStatus(TaskStatus.INITIALIZING, "Agent is connecting"),
    ClaimsState.UNAUTHORIZED: DescribedStatus(TaskStatus.INITIALIZING, "Agent is connecting"),
}
_APP_INITIALIZING: Final = DescribedStatus(TaskStatus.INITIALIZING, "App is initializing")
_ACTIVE: Final = {
    AgentStatus.RUNNING: "The agent is working",
    AgentStatus.WAITING: "The agent waits for an answer",
    AgentStatus.SETTLING: "The agent has gone quiet",
    AgentStatus.STABLE: "The agent waits for input",
}
_NOT_READY: Final = (ClaimsState.CONNECTING, ClaimsState.UNAUTHORIZED, ClaimsState.ACTING)


class TaskView:
    """The task as the local API shows it. `listener` is None if claims are disabled. The shutdown sets `is_stopping`."""

    def __init__(
        self, *, tracker: Tracker, task_reports: TaskReports, listener: ClaimListener | None
    ) -> None:
        self.is_stopping = False
        self._tracker = tracker
        self._task_reports = task_reports
        self._listener = listener

    def status(self) -> DescribedStatus:
        if self.is_stopping:
            return DescribedStatus(TaskStatus.PAUSED, "The workspace is stopping")
        return task_status(
            self._tracker.evidence, self._claims_state(), was_reached=self._tracker.was_reached
        )

    def as_json(self) -> dict[str, Any]:
        """`task` of `/v1/status`: coderd's status, the state of the task, and the message and link of its last report."""
        status, current = self.status(), self._task_reports.current
        message = current.message if status.status is TaskStatus.ACTIVE else ""
        return {
            "status": status.status.value,
            "state": None if current.state is TaskState.NONE else current.state.value,
            "message": message or status.message,
            "uri": current.uri,
        }

    def is_workspace_ready(self) -> bool:
        """Whether the agent has answered and the claim is out of the way: coderd drops notifications before."""
        return self._tracker.was_reached and self._claims_state() not in _NOT_READY

    def _claims_state(self) -> ClaimsState | None:
        return self._listener.view().state if self._listener is not None else None


def task_status(agent: Evidence, claims: ClaimsState | None, *, was_reached: bool) -> DescribedStatus:
    """The status now. `claims` is None if claims are disabled; `was_reached`: the agent has answered in this run."""
    if agent.status in _ACTIVE:
        return DescribedStatus(TaskStatus.ACTIVE, _ACTIVE[agent.status])
    if not was_reached and agent.activity is not Activity.BROKEN:
        return _APP_INITIALIZING if claims is None else _BEFORE_THE_AGENT.get(claims, _APP_INITIALIZING)
    match agent.activity:
        case Activity.GONE:
            return DescribedStatus(TaskStatus.PAUSED, f"The agent has stopped ({agent.note})")
        case Activity.BROKEN:
            return DescribedStatus(TaskStatus.ERROR, f"The agent's answer is not usable ({agent.note})")
    return DescribedStatus(TaskStatus.UNKNOWN, "agentd has not polled the agent yet")


def input_refusal(task: DescribedStatus, agent: AgentStatus) -> ApiError | None:
    """Why input is refused now, None if it is not. 409: waiting helps; 400: not in this state. As coderd's task send."""
    status = task.status
    match status:
        case TaskStatus.PENDING | TaskStatus.INITIALIZING:
            detail = "The task is resuming. Wait for the task to become active before sending messages."
            return ApiError(409, f"Task is {status.value}.", hint=f"{detail} ({task.message})")
        case TaskStatus.PAUSED:
            return ApiError(409, "Task is paused.", hint="Resume the task to send messages.")
        case TaskStatus.ERROR | TaskStatus.UNKNOWN:
            detail = f'Task status is "{status.value}", it must be "active" to interact with the task.'
            return ApiError(400, "Task must be active.", hint=f"{detail} ({task.message})")
    # Also while it settles: an agent that pauses for 3 s inside a turn would get the input in the middle of that turn.
    return None if agent is AgentStatus.STABLE else not_ready(agent.value)


def not_ready(agent_status: str) -> ApiError:
    """The refusal of input while the agent is inside a turn."""
    return ApiError(409, "Task app is not ready to accept input.", hint=f"Status: {agent_status}")
