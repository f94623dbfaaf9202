"""A conversation as AgentAPI keeps it, and its subscribers.

PTY: message 0 is the agent's start screen, ids count from 0, the last agent message is rewritten in place.
ACP: the conversation starts empty and ids count from 0. A failed prompt removes the agent's message; its id
is not reused.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypedDict

from agentd.simulator import gojson

Mode: TypeAlias = Literal["pty", "acp"]
Status: TypeAlias = Literal["running", "stable"]

QUEUED_EVENTS: Final = 1024
"""AgentAPI closes the connection of a subscriber with more unsent events."""
KEPT_ERRORS: Final = 100
ASCII_BLANKS: Final = " \t\r\n\v\f"


class Message(TypedDict):
    """One entry of `GET /messages`."""

    id: int
    content: str
    role: str
    time: str


BOGUS: Final[Message] = {"id": 0, "content": "", "role": "", "time": "0001-01-01T00:00:00Z"}
"""AgentAPI appends this to `GET /messages` when the list shrinks between its two reads of the list."""


@dataclass(frozen=True, slots=True)
class Event:
    kind: Literal["message_update", "status_change", "agent_error"]
    data: Mapping[str, object]


@dataclass(slots=True, eq=False)
class Follower:
    """A subscription to `/events`: the conversation at its start, and a queue of events. None ends it."""

    messages: list[Message]
    status: Status
    errors: list[Event]
    queue: asyncio.Queue[Event | None] = field(default_factory=asyncio.Queue)
    overflowed: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self, event: Event) -> None:
        if self.queue.qsize() >= QUEUED_EVENTS:
            self.overflowed.set()
        else:
            self.queue.put_nowait(event)


class Conversation:
    """Messages, status and stored errors. Every change is an event for the followers."""

    def __init__(self, mode: Mode, *, now: Callable[[], float]) -> None:
        self.mode: Mode = mode
        self.messages: list[Message] = []
        self.status: Status = "stable"
        self.errors: list[Event] = []
        self.followers: set[Follower] = set()
        self.watchers: set[asyncio.Queue[str | None]] = set()
        """The subscribers of the screen. Each change puts the whole screen; None ends the subscription."""
        self.dirty = False
        """Whether a save would write. As in the real server, a user's message alone does not count."""
        self._now = now
        self._next_id = 0
        self._colliding = False
        self.restart()

    def restart(self) -> None:
        """Clear everything and start ids at 0, as a restart of the server does."""
        self.messages, self.errors, self._next_id, self._colliding = [], [], 0, False
        self.status, self.dirty = "stable", False
        if self.mode == "pty":
            self.add("agent", "")
            self.dirty = False

    def load(self, source: Path | str | Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Replace the messages. `source` is a transcript file, its content `{"messages": […]}`, or messages.

        Missing fields of a message get defaults.
        """
        if isinstance(source, (Path, str)):
            source = dict(json.loads(Path(source).read_text(encoding="utf-8")))
        entries: Iterable[Mapping[str, Any]] = source["messages"] if isinstance(source, Mapping) else source
        time = self.stamp()
        self.messages = [
            {
                "id": entry.get("id", index),
                "content": entry.get("content", ""),
                "role": entry.get("role", "agent"),
                "time": entry.get("time", time),
            }
            for index, entry in enumerate(entries)
        ]
        self._next_id = max((message["id"] for message in self.messages), default=-1) + 1
        self.dirty = True
        for message in self.messages:
            self._publish_message(message)

    def add(self, role: str, content: str, time: str | None = None) -> Message:
        """Append a message. A user's message is stripped of ASCII whitespace, as in AgentAPI."""
        if role == "user":
            content = content.strip(ASCII_BLANKS)
        message: Message = {
            "id": self._take_id(),
            "content": content,
            "role": role,
            "time": self.stamp() if time is None else time,
        }
        self.messages.append(message)
        self.dirty = self.dirty or role != "user"
        self._publish_message(message)
        return message

    def answer(self, prompt: str, content: str) -> bool:
        """Append the agent's answer to the user's last message `prompt`. Returns whether it is a message.

        In PTY mode the leading lines that an earlier screen had, of prompt and answer, are not part of the
        message, and a message that equals the agent's previous one is none. So AgentAPI shows the second of
        three equal answers to equal prompts as "", and stays `running` without a message after the third.
        """
        if self.mode == "pty":
            earlier = {line for message in self.messages[:-1] for line in message["content"].splitlines()}
            lines = [*prompt.splitlines(), *content.splitlines()]
            known = next((at for at, line in enumerate(lines) if line not in earlier), len(lines))
            content = "\n".join(lines[max(known, len(prompt.splitlines())) :])
            if content == self.screen:
                return False
        self.add("agent", content)
        return True

    def rewrite_last(self, content: str) -> Message:
        """Give the last message new content and, in PTY mode, a new time, as a change of the screen does."""
        message = self.messages[-1]
        message = {
            **message,
            "content": content,
            "time": self.stamp() if self.mode == "pty" else message["time"],
        }
        self.messages[-1] = message
        self.dirty = True
        self._publish_message(message)
        return message

    def remove_last(self) -> None:
        """Remove the last message, as a failed prompt does: without an event, and its id is not reused."""
        self.messages.pop()

    def collide_ids(self) -> None:
        """Give every id to two messages, from now on (agentapi#205)."""
        self._colliding = True
        for index, message in enumerate(self.messages):
            self.messages[index] = {**message, "id": index // 2}

    def set_status(self, status: Status, *, agent_type: str | None) -> None:
        """Set the status. A change is an event, an equal status is not."""
        if status == self.status:
            return
        self.status = status
        self._push(status_event(status, agent_type))

    def error(self, message: str, level: Literal["warning", "error"]) -> None:
        """Report an error of the agent. A new subscription starts with the newest 100 errors."""
        event = Event("agent_error", {"message": message, "level": level, "time": self.stamp()})
        self.errors = [*self.errors, event][-KEPT_ERRORS:]
        self._push(event)

    def follow(self) -> Follower:
        """Subscribe. No event is lost between the returned state and the queue."""
        follower = Follower(list(self.messages), self.status, list(self.errors))
        self.followers.add(follower)
        return follower

    @property
    def screen(self) -> str:
        """What the terminal shows: the last message of the agent."""
        return next(
            (message["content"] for message in reversed(self.messages) if message["role"] == "agent"), ""
        )

    def stamp(self) -> str:
        """The current time as Go writes it."""
        return gojson.timestamp(self._now())

    def _take_id(self) -> int:
        if self._colliding:
            return len(self.messages) // 2
        taken, self._next_id = self._next_id, self._next_id + 1
        return taken

    def _publish_message(self, message: Message) -> None:
        self._push(update_event(message))
        for watcher in self.watchers:
            watcher.put_nowait(self.screen)

    def _push(self, event: Event) -> None:
        for follower in self.followers:
            follower.push(event)


def update_event(message: Message) -> Event:
    """`message_update`. Its text is in the field `message`, not `content`."""
    return Event(
        "message_update",
        {
            "id": message["id"],
            "role": message["role"],
            "message": message["content"],
            "time": message["time"],
        },
    )


def status_event(status: Status, agent_type: str | None) -> Event:
    """`status_change`, without `agent_type` in versions that do not have it."""
    return Event("status_change", {"status": status} | ({"agent_type": agent_type} if agent_type else {}))
