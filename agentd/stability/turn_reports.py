"""Compute the state of the task from the reports of the current turn. Pure.

Reports come from three sources: the watcher (from the agent's status), fire-and-forget events (`POST /v1/events`), and
explicit reports (`POST /v1/reports`, `agentd report`). The first two may be late or replayed; the sender of an explicit
report reads the answer.
"""

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from agentd.errors import AgentdError
from agentd.stability.status_report import FINAL_STATES, Source, StatusReport, TaskState

FINAL_REPORTS_MAX: Final = 32
"""Final reports that are kept of one turn; more than one is unusual."""


class TaskInput(enum.Enum):
    """What changes the state of a task."""

    USER_MESSAGE = "turn"
    WORKING = "working"
    IDLE = "idle"
    COMPLETE = "complete"
    FAILURE = "failure"


# Reasons for the table:
#
# COMPLETE and FAILURE are left by no report: the screen keeps changing after "done", events are replayed, and a report
# may overtake another. The first final report stands, also against the other final state.
#
# A user message leads from every state to WORKING: the agent has something to do, even before it shows it.
#
# Reports are applied in order of their timestamps, not of arrival (`TurnReports`), so this table alone decides.
_REPORTED: Final = {
    TaskInput.USER_MESSAGE: TaskState.WORKING,
    TaskInput.WORKING: TaskState.WORKING,
    TaskInput.IDLE: TaskState.IDLE,
    TaskInput.COMPLETE: TaskState.COMPLETE,
    TaskInput.FAILURE: TaskState.FAILURE,
}
TRANSITIONS: Final[Mapping[TaskState, Mapping[TaskInput, TaskState]]] = {
    TaskState.NONE: _REPORTED,
    TaskState.WORKING: _REPORTED,
    TaskState.IDLE: _REPORTED,
    TaskState.COMPLETE: dict.fromkeys(TaskInput, TaskState.COMPLETE)
    | {TaskInput.USER_MESSAGE: TaskState.WORKING},
    TaskState.FAILURE: dict.fromkeys(TaskInput, TaskState.FAILURE)
    | {TaskInput.USER_MESSAGE: TaskState.WORKING},
}


class TaskFinishedError(AgentdError):
    """An explicit report says working or idle about a finished task. Nothing changed."""


class UserMessage(NamedTuple):
    """A message of the user: its id, a digest of its content, and its estimated time (monotonic seconds)."""

    id: int
    digest: int
    at: float


class TaskRecord(NamedTuple):
    """The data that restores a `TurnReports`. `turn` counts the user messages that have begun a turn."""

    turn: int = 0
    user: UserMessage | None = None
    reports: tuple[StatusReport, ...] = ()


NEW_TASK: Final = TaskRecord()


class TurnReports:
    """The reports of the current turn, and the state that follows from them.

    The state is the fold of `TRANSITIONS` over the reports in order of their `at`. Only the reports that can still
    decide are kept: the final ones, and the last of the others. So a late or replayed report changes nothing. A user
    message that is noticed late begins its turn at the time when it was sent: a "complete" between that time and now
    belongs to the new turn.
    """

    def __init__(self, record: TaskRecord = NEW_TASK) -> None:
        self.record = record._replace(reports=tuple(sorted(record.reports, key=_order)))
        """What restores this object."""

    @property
    def state(self) -> TaskState:
        state = TaskState.NONE
        if self.record.user is not None:
            state = TRANSITIONS[state][TaskInput.USER_MESSAGE]
        for report in self.record.reports:
            state = TRANSITIONS[state][TaskInput(report.state.value)]
        return state

    @property
    def current(self) -> StatusReport | None:
        """The report that the state is based on. None if only the user has written in this turn, or nothing happened."""
        reports = self.record.reports
        return next((report for report in reports if report.is_final), reports[-1] if reports else None)

    def add(self, report: StatusReport) -> bool:
        """Add a report. True if it changed the state, or the message or link that belong to it.

        Raises `TaskFinishedError` for an explicit report of working or idle about a finished task. Such a report of the
        watcher or an event changes nothing.
        """
        state = self.state
        if report.source is Source.REPORT and state in FINAL_STATES and not report.is_final:
            raise TaskFinishedError(
                f"the task is already {state.value}; {report.state.value} would reopen it",
                hint="a new message from the user begins a new turn",
            )
        before = (state, self.current)
        if self.record.user is not None and report.at < self.record.user.at:
            return False  # about an earlier turn
        reports = sorted({*self.record.reports, report}, key=_order)
        final = [report for report in reports if report.is_final]
        others = [report for report in reports if not report.is_final]
        kept = sorted([*final[:1], *final[1:][1 - FINAL_REPORTS_MAX :], *others[-1:]], key=_order)
        self.record = self.record._replace(reports=tuple(kept))
        return (self.state, self.current) != before

    def on_user_message(self, message: UserMessage) -> bool:
        """Take in the newest user message, which each read shows again. True if it is new and changed the state."""
        turn, known, reports = self.record
        if known is not None and ((message.id, message.digest) == known[:2] or message.at < known.at):
            return False
        before = (self.state, self.current)
        self.record = TaskRecord(
            turn + 1, message, tuple(report for report in reports if report.at >= message.at)
        )
        return (self.state, self.current) != before


def estimated_time(*, seen_at: float, unseen_at: float, age_s: float) -> float:
    """When a message was sent: `seen_at - age_s`, clamped to the interval between the last poll without it and the
    first poll with it. All in monotonic seconds. The message's own time is wall time, which may have been stepped.
    """
    return min(max(seen_at - age_s, unseen_at), seen_at)


def _order(report: StatusReport) -> tuple[float, bool, bool, bool, str, str, str, str]:
    # At the same time: a final report after the others, an explicit one after the others; the rest makes it total.
    is_explicit = report.source is Source.REPORT
    rest = (report.state.value, report.source.value, report.message, report.uri)
    return (report.at, report.is_final, is_explicit, report.state is TaskState.IDLE, *rest)
