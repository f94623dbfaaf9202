"""Input for the agent and reports about the task, as they arrive over the local API.

Input is accepted and refused as coderd does for a task (`POST /tasks/{task}/send`), with the same answers:

    204   the agent accepted it
    409   not now, but waiting helps: the agent is working, waiting or settling; pending, initializing, paused
    400   not in this state (error, unknown), or nothing to send
    502   the agent refused it or failed; it is not sent again, because an agent cannot recognise a repetition
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from agentd import log
from agentd.agents.agent import Activity, Agent, AgentBusyError, AgentError
from agentd.daemon.task_status import TaskView, input_refusal, not_ready
from agentd.local_api.replies import ApiError
from agentd.stability.status_report import Source
from agentd.stability.task_reports import InvalidReportError, TaskReports
from agentd.stability.tracker import Tracker
from agentd.stability.turn_reports import TaskFinishedError
from agentd.stability.watcher import Watcher

READ_TIMEOUT_S: Final = 1.0


class Input(NamedTuple):
    """Sends one message at a time (`sending`): the checks of a second one would not see the first."""

    agent: Agent
    watcher: Watcher
    tracker: Tracker
    task_reports: TaskReports
    task_view: TaskView
    sending: asyncio.Lock

    async def send(self, content: object) -> dict[str, Any]:
        """Send `content` to the agent. Raises `ApiError` 400, 409 or 502; its detail has the agent's status."""
        if not isinstance(content, str) or not content.strip():
            raise self._refused(400, "Task input is required.", "content: must be a text that is not blank")
        if not self.agent.can.send_input:
            raise self._refused(400, "Task app takes no input.", f"{self.agent.kind} agents take no input")
        refusal = input_refusal(self.task_view.status(), self.tracker.status)
        if refusal is not None:
            raise refusal
        if self.sending.locked():
            raise not_ready("running")
        async with self.sending:
            await self._send(content)
        return {}

    async def _send(self, content: str) -> None:
        # The last poll is up to a second old.
        observation = await self.agent.observe()
        if observation.activity in (Activity.GONE, Activity.BROKEN):
            raise self._refused(502, "Failed to get status from task app.", observation.evidence)
        if observation.activity is not Activity.IDLE:
            self.watcher.expect_work()
            raise not_ready("running")
        try:
            await self.agent.send(content)
        except AgentBusyError as exc:
            self.watcher.expect_work()
            raise not_ready("running") from exc
        except AgentError as exc:
            raise self._refused(502, "Task app rejected the message.", str(exc)) from exc
        self.watcher.expect_work()
        log.get("daemon").info("agent.input_sent", characters=len(content))

    async def report(self, fields: Mapping[str, object]) -> dict[str, Any]:
        """An explicit report. Raises `ApiError`: 400 if malformed, 409 if it would reopen a finished task."""
        try:
            return self._accepted(changed=await self._explicit_report(fields))
        except InvalidReportError as exc:
            raise ApiError(400, "Invalid report.", hint=exc.message) from exc
        except TaskFinishedError as exc:
            raise ApiError(409, exc.message, hint=exc.hint) from exc

    async def event(self, fields: Mapping[str, object]) -> dict[str, Any]:
        """A fire-and-forget report. One that cannot be accepted is ignored, and the answer says so."""
        try:
            changed = await self.task_reports.report(fields, Source.EVENT)
        except InvalidReportError as exc:
            return {"taken": False, "message": f"Ignored. {exc.message}"}
        state = self.task_reports.state
        if self.task_reports.is_finished and str(fields["state"]).lower() != state.value:
            return self._answer(taken=False, message=f"Ignored: the task is {state.value} already.")
        return self._accepted(changed=changed)

    async def _explicit_report(self, fields: Mapping[str, object]) -> bool:
        try:
            return await self.task_reports.report(fields, Source.REPORT)
        except TaskFinishedError:
            # A user message that the watcher has not read yet may have begun a new turn.
            await self.watcher.read_messages(READ_TIMEOUT_S)
            return await self.task_reports.report(fields, Source.REPORT)

    def _accepted(self, *, changed: bool) -> dict[str, Any]:
        return self._answer(
            taken=True, message="Accepted." if changed else "Accepted; the task state did not change."
        )

    def _answer(self, *, taken: bool, message: str) -> dict[str, Any]:
        return {"taken": taken, "message": message, "task": self.task_view.as_json()}

    def _refused(self, status: int, message: str, detail: str) -> ApiError:
        return ApiError(status, message, hint=f"{detail} (Status: {self.tracker.status.value})")
