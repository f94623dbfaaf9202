"""What `GET /v1/messages` answers: the conversation live while the agent answers, else as it was kept.

By state as coderd's task logs do, so that a script reads one like the other:

    active                            live, `snapshot` false; while a message is being delivered the agent cannot be
                                      asked (`/messages` hangs), and what was kept is as new as it gets
    pending, initializing, paused     what was kept, `snapshot` true, and when that was
    error, unknown                    409
"""

from collections.abc import Iterable
from typing import Any, Final

from agentd.agents.agentapi.client import AgentBusy, AgentGone
from agentd.claims.answers import ClaimsState
from agentd.conversation.fit import messages_of
from agentd.conversation.message import Message
from agentd.daemon.build import Rooms
from agentd.daemon.phase import Phase
from agentd.local_api.replies import ApiError
from agentd.stability.task_state import TaskWord
from agentd.stability.task_status import Owner, TaskStatus, TaskStatusWord, task_status

LIVE_TIMEOUT_S: Final = 2.0

_NO_LOGS: Final = (TaskStatusWord.ERROR, TaskStatusWord.UNKNOWN)
_OWNERS: Final = {
    ClaimsState.CONNECTING: Owner.CONNECTING,
    ClaimsState.UNAUTHORIZED: Owner.CONNECTING,
    ClaimsState.LISTENING: Owner.AWAITED,
    ClaimsState.ACTING: Owner.ACTING,
}


def task(rooms: Rooms) -> TaskStatus:
    """The task's status in coderd's words, as far as a sidecar sees it."""
    state = rooms.listener.view().state if rooms.listener else ClaimsState.UNSUPPORTED
    return task_status(
        rooms.tracker.facts,
        owner=_OWNERS.get(state, Owner.SETTLED),
        ever_reached=rooms.reached.is_set(),
        stopping=rooms.phase is not Phase.RUNNING,
    )


def described(rooms: Rooms) -> dict[str, Any]:
    """`{"task": …}`, as `/v1/status` has it: coderd's word, what the task does, and what was said of that."""
    status, word, standing = task(rooms), rooms.desk.word, rooms.desk.standing
    said = standing.message if standing is not None and status.word is TaskStatusWord.ACTIVE else ""
    return {
        "task": {
            "status": status.word.value,
            "state": None if word is TaskWord.NONE else word.value,
            "message": said or status.message,
            "uri": standing.uri if standing is not None else "",
        }
    }


async def messages(rooms: Rooms) -> dict[str, Any]:
    """`GET /v1/messages`: the newest `snapshots.max_messages`, oldest first.

    Raises `ApiError` (409) in an error or unknown state, `AgentBroken` for an answer that AgentAPI does not give.
    """
    word = task(rooms).word
    if word in _NO_LOGS:
        raise ApiError(
            409,
            "Cannot fetch logs for task in current state.",
            hint=f'Task status is "{word.value}".',
        )
    if word is TaskStatusWord.ACTIVE:
        try:
            live = await rooms.agent.messages(
                keep=rooms.config.snapshots.max_messages, timeout_s=LIVE_TIMEOUT_S
            )
        except (AgentBusy, AgentGone):
            return await _kept(rooms)
        return {"messages": _plain(live), "snapshot": False}
    return await _kept(rooms)


async def _kept(rooms: Rooms) -> dict[str, Any]:
    """The snapshot that would be delivered now. Without one, `snapshot_at` is null and the list is empty."""
    entry = await rooms.recorder.capture()
    return {
        "messages": _plain(messages_of(entry.payload)) if entry else [],
        "snapshot": True,
        "snapshot_at": entry.captured_at if entry else None,
    }


def _plain(messages: Iterable[Message]) -> list[dict[str, Any]]:
    return [message._asdict() for message in messages]
