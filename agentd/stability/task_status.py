"""The task's status in coderd's words, computed from what a sidecar can see.  Pure.

coderd computes it from the build, the agent's lifecycle and the app's health (view `tasks_with_status`); of those a
sidecar sees the claim and the app.  The words mean the same, so that scripts written against one read the other:

    pending        nobody owns the workspace yet: a prebuild that waits to be claimed
    initializing   on its way; the message says what it waits for
    active         the agent answers; what it does is the task's state
    paused         it answered and has stopped: the conversation is in the snapshot
    error          something answers there that is not a working agent
    unknown        nothing can be said
"""

import enum
from typing import Final, NamedTuple

from agentd.stability.tracker import AgentStatus, Evidence, Reading

__all__ = ["Owner", "Refusal", "TaskStatus", "TaskStatusWord", "gate", "task_status"]


class TaskStatusWord(enum.Enum):
    """coderd's `TaskStatus`."""

    PENDING = "pending"
    INITIALIZING = "initializing"
    ACTIVE = "active"
    PAUSED = "paused"
    UNKNOWN = "unknown"
    ERROR = "error"


class Owner(enum.Enum):
    """How far the claim of the workspace is."""

    CONNECTING = "connecting"
    AWAITED = "awaited"
    """A prebuild: the claim has not come."""
    ACTING = "acting"
    """The claim's hooks run."""
    SETTLED = "settled"
    """Somebody owns it, or it never was a prebuild, or claims are not our business."""


class TaskStatus(NamedTuple):
    """The word, and a sentence about it."""

    word: TaskStatusWord
    message: str


class Refusal(NamedTuple):
    """Why input is not taken now: an HTTP status, and coderd's way to say it."""

    status: int
    message: str
    detail: str


_BEFORE_THE_AGENT: Final = {
    Owner.AWAITED: TaskStatus(TaskStatusWord.PENDING, "Waiting for the workspace to be claimed"),
    Owner.ACTING: TaskStatus(TaskStatusWord.INITIALIZING, "Workspace is starting"),
    Owner.CONNECTING: TaskStatus(TaskStatusWord.INITIALIZING, "Agent is connecting"),
    Owner.SETTLED: TaskStatus(TaskStatusWord.INITIALIZING, "App is initializing"),
}
_DOING: Final = {
    AgentStatus.RUNNING: "The agent is working",
    AgentStatus.SETTLING: "The agent has gone quiet",
    AgentStatus.STABLE: "The agent waits for input",
}


def task_status(agent: Evidence, *, owner: Owner, ever_reached: bool, stopping: bool = False) -> TaskStatus:
    """What holds.  `ever_reached`: the agent has answered since we started; `stopping`: we are on our way out."""
    if stopping:
        return TaskStatus(TaskStatusWord.PAUSED, "The workspace is stopping")
    if agent.status in _DOING:
        return TaskStatus(TaskStatusWord.ACTIVE, _DOING[agent.status])
    if not ever_reached and agent.reading is not Reading.BROKEN:
        return _BEFORE_THE_AGENT[owner]
    match agent.reading:
        case Reading.GONE:
            return TaskStatus(TaskStatusWord.PAUSED, f"The agent has stopped ({agent.note})")
        case Reading.BROKEN:
            return TaskStatus(TaskStatusWord.ERROR, f"The agent gives no usable answer ({agent.note})")
    return TaskStatus(TaskStatusWord.UNKNOWN, "The agent has not been looked at")


def gate(task: TaskStatus, agent: AgentStatus) -> Refusal | None:
    """Whether the agent takes input now.  409: it will, given time; 400: not in this state.  As coderd's task send."""
    word = task.word
    match word:
        case TaskStatusWord.PENDING | TaskStatusWord.INITIALIZING:
            detail = "The task is resuming. Wait for the task to become active before sending messages."
            return Refusal(409, f"Task is {word.value}.", f"{detail} ({task.message})")
        case TaskStatusWord.PAUSED:
            return Refusal(409, "Task is paused.", "Resume the task to send messages.")
        case TaskStatusWord.ERROR | TaskStatusWord.UNKNOWN:
            detail = f'Task status is "{word.value}", it must be "active" to interact with the task.'
            return Refusal(400, "Task must be active.", f"{detail} ({task.message})")
    # Settling included: what pauses for 3 s in the middle of a turn would get its input in the middle of that turn.
    if agent is not AgentStatus.STABLE:
        return Refusal(409, "Task app is not ready to accept input.", f"Status: {agent.value}")
    return None
