"""Compute the status of the task, in coderd's values, from what a sidecar can see. Pure.

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
from typing import Final, NamedTuple

from agentd.agents.agent import Activity
from agentd.stability.tracker import AgentStatus, Evidence


class TaskStatus(enum.Enum):
    """coderd's `TaskStatus`."""

    PENDING = "pending"
    INITIALIZING = "initializing"
    ACTIVE = "active"
    PAUSED = "paused"
    UNKNOWN = "unknown"
    ERROR = "error"


class ClaimProgress(enum.Enum):
    """How far the claim of the workspace is."""

    CONNECTING = "connecting"
    AWAITED = "awaited"
    """A prebuild that has not been claimed."""
    ACTING = "acting"
    """The claim's hooks run."""
    DONE = "done"
    """The claim is done, or there is none to wait for."""


class DescribedStatus(NamedTuple):
    """A status, and a sentence about it."""

    status: TaskStatus
    message: str


class InputRefusal(NamedTuple):
    """Why the agent takes no input now: an HTTP status, and coderd's texts for it."""

    http_status: int
    message: str
    detail: str


_BEFORE_THE_AGENT: Final = {
    ClaimProgress.AWAITED: DescribedStatus(TaskStatus.PENDING, "Waiting for the workspace to be claimed"),
    ClaimProgress.ACTING: DescribedStatus(TaskStatus.INITIALIZING, "Workspace is starting"),
    ClaimProgress.CONNECTING: DescribedStatus(TaskStatus.INITIALIZING, "Agent is connecting"),
    ClaimProgress.DONE: DescribedStatus(TaskStatus.INITIALIZING, "App is initializing"),
}
_ACTIVE: Final = {
    AgentStatus.RUNNING: "The agent is working",
    AgentStatus.WAITING: "The agent waits for an answer",
    AgentStatus.SETTLING: "The agent has gone quiet",
    AgentStatus.STABLE: "The agent waits for input",
}


def task_status(
    agent: Evidence, *, claim: ClaimProgress, was_reached: bool, is_stopping: bool = False
) -> DescribedStatus:
    """The status now. `was_reached`: the agent has answered in this run; `is_stopping`: agentd is shutting down."""
    if is_stopping:
        return DescribedStatus(TaskStatus.PAUSED, "The workspace is stopping")
    if agent.status in _ACTIVE:
        return DescribedStatus(TaskStatus.ACTIVE, _ACTIVE[agent.status])
    if not was_reached and agent.activity is not Activity.BROKEN:
        return _BEFORE_THE_AGENT[claim]
    match agent.activity:
        case Activity.GONE:
            return DescribedStatus(TaskStatus.PAUSED, f"The agent has stopped ({agent.note})")
        case Activity.BROKEN:
            return DescribedStatus(TaskStatus.ERROR, f"The agent's answer is not usable ({agent.note})")
    return DescribedStatus(TaskStatus.UNKNOWN, "agentd has not polled the agent yet")


def input_refusal(task: DescribedStatus, agent: AgentStatus) -> InputRefusal | None:
    """Why input is refused now, None if it is not. 409: waiting helps; 400: not in this state. As coderd's task send."""
    status = task.status
    match status:
        case TaskStatus.PENDING | TaskStatus.INITIALIZING:
            detail = "The task is resuming. Wait for the task to become active before sending messages."
            return InputRefusal(409, f"Task is {status.value}.", f"{detail} ({task.message})")
        case TaskStatus.PAUSED:
            return InputRefusal(409, "Task is paused.", "Resume the task to send messages.")
        case TaskStatus.ERROR | TaskStatus.UNKNOWN:
            detail = f'Task status is "{status.value}", it must be "active" to interact with the task.'
            return InputRefusal(400, "Task must be active.", f"{detail} ({task.message})")
    # Also while it settles: an agent that pauses for 3 s inside a turn would get the input in the middle of that turn.
    if agent is not AgentStatus.STABLE:
        return InputRefusal(409, "Task app is not ready to accept input.", f"Status: {agent.value}")
    return None
