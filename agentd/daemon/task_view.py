"""The status of the task, put together from the agent, the claim and the reports."""

from typing import Any, Final

from agentd.claims.answers import ClaimsState
from agentd.claims.listener import ClaimListener
from agentd.stability.status_report import TaskState
from agentd.stability.task_reports import TaskReports
from agentd.stability.task_status import ClaimProgress, DescribedStatus, TaskStatus, task_status
from agentd.stability.tracker import Tracker

_PROGRESS: Final = {
    ClaimsState.CONNECTING: ClaimProgress.CONNECTING,
    ClaimsState.UNAUTHORIZED: ClaimProgress.CONNECTING,
    ClaimsState.LISTENING: ClaimProgress.AWAITED,
    ClaimsState.ACTING: ClaimProgress.ACTING,
}
_NOT_READY: Final = (ClaimsState.CONNECTING, ClaimsState.UNAUTHORIZED, ClaimsState.ACTING)


class TaskView:
    """`listener` is None if claims are disabled. `is_stopping` is set by the shutdown."""

    def __init__(
        self, *, tracker: Tracker, task_reports: TaskReports, listener: ClaimListener | None
    ) -> None:
        self.is_stopping = False
        self._tracker = tracker
        self._task_reports = task_reports
        self._listener = listener

    def status(self) -> DescribedStatus:
        """In coderd's values, as far as a sidecar can see it."""
        state = self._claims_state()
        return task_status(
            self._tracker.evidence,
            claim=ClaimProgress.DONE if state is None else _PROGRESS.get(state, ClaimProgress.DONE),
            was_reached=self._tracker.was_reached,
            is_stopping=self.is_stopping,
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
