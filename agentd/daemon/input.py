"""What the local API hands on: input for the agent, and words about the task.

Input is gated as coderd gates a task's (`POST /tasks/{task}/send`), with the same answers:

    204   AgentAPI took it
    409   not now, but waiting helps: the agent works or has only just gone quiet; pending, initializing, paused
    400   not in this state (error, unknown), or nothing to send
    502   AgentAPI refused it or failed; it is not tried again, because AgentAPI cannot tell a repetition
"""

from collections.abc import Mapping
from typing import Any, Final

from agentd import log
from agentd.agents.agentapi.client import AgentBusy, AgentError
from agentd.daemon import conversation
from agentd.daemon.build import Rooms
from agentd.local_api.replies import ApiError
from agentd.stability.desk import NotAReport
from agentd.stability.task_state import Source, TaskFinished
from agentd.stability.task_status import gate

__all__ = ["Input"]

# In a terminal AgentAPI answers when the agent has begun, or gives up after 17 s at most.
PTY_TIMEOUT_S: Final = 20.0
# By ACP it answers when the whole turn is done, and a refusal comes at once; a connection that is given up stops nothing.
ACP_TIMEOUT_S: Final = 2.0
LOOK_TIMEOUT_S: Final = 1.0


class Input:
    """One message at a time: the gate cannot know what a second one would meet."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._sending = False
        self._log = log.get("daemon")

    async def send(self, content: object) -> dict[str, Any]:
        """Give the agent its input.  Raises `ApiError` 400, 409 or 502, whose detail tells the state."""
        rooms = self._rooms
        if not isinstance(content, str) or not content.strip():
            raise self._refused(400, "Task input is required.", "content: must be a text that is not blank")
        task = conversation.task(rooms)
        refusal = gate(task, rooms.tracker.state)
        if refusal is not None:
            raise ApiError(refusal.status, refusal.message, hint=refusal.detail)
        if self._sending:
            raise _not_ready()
        self._sending = True
        try:
            await self._deliver(content)
        finally:
            self._sending = False
        return {}

    async def _deliver(self, content: str) -> None:
        agent = self._rooms.agent
        try:
            # What was seen a second ago is not what is so now.
            status = await agent.status()
        except AgentBusy as error:
            raise _not_ready() from error
        except AgentError as error:
            raise self._refused(502, "Failed to get status from task app.", str(error)) from error
        if status.status != "stable":
            self._rooms.watcher.expect_work()
            raise _not_ready()
        by_acp = status.transport == "acp"
        try:
            await agent.send(content, timeout_s=ACP_TIMEOUT_S if by_acp else PTY_TIMEOUT_S)
        except AgentBusy as error:
            if not by_acp:
                detail = f"{error}; it may still be delivered"
                raise self._refused(502, "Task app rejected the message.", detail) from error
        except AgentError as error:
            raise self._refused(502, "Task app rejected the message.", str(error)) from error
        self._rooms.watcher.expect_work()
        self._log.info("agent.input_sent", characters=len(content))

    async def report(self, said: Mapping[str, object]) -> dict[str, Any]:
        """An explicit word.  Raises `ApiError` 400 for one that is none, 409 when it would take an end back."""
        try:
            return self._taken(changed=await self._reported(said))
        except NotAReport as error:
            raise ApiError(400, "Not a report.", hint=error.message) from error
        except TaskFinished as error:
            raise ApiError(409, error.message, hint=error.hint) from error

    async def event(self, said: Mapping[str, object]) -> dict[str, Any]:
        """The same, fire-and-forget: what cannot be taken is ignored, and the answer says so."""
        desk = self._rooms.desk
        try:
            changed = await desk.say(said, Source.EVENT)
        except NotAReport as error:
            return {"taken": False, "message": f"Ignored. {error.message}"}
        if desk.is_finished and str(said["state"]).lower() != desk.word.value:
            message = f"Ignored: the task is {desk.word.value} already."
            return {"taken": False, "message": message} | conversation.described(self._rooms)
        return self._taken(changed=changed)

    async def _reported(self, said: Mapping[str, object]) -> bool:
        desk = self._rooms.desk
        try:
            return await desk.say(said, Source.REPORT)
        except TaskFinished:
            # The user may have written a moment ago and the agent may be quicker to say so than we to look.
            await self._rooms.watcher.refresh(LOOK_TIMEOUT_S)
            return await desk.say(said, Source.REPORT)

    def _taken(self, *, changed: bool) -> dict[str, Any]:
        message = "Taken." if changed else "Taken; it changed nothing."
        return {"taken": True, "message": message} | conversation.described(self._rooms)

    def _refused(self, status: int, message: str, detail: str) -> ApiError:
        return ApiError(status, message, hint=f"{detail} (Status: {self._rooms.tracker.state.value})")


def _not_ready() -> ApiError:
    return ApiError(409, "Task app is not ready to accept input.", hint="Status: running")
