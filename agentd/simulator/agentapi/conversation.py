"""A conversation as AgentAPI keeps it, and who follows it.

PTY: message 0 is the agent's start screen, ids count up from 0, the last agent message is rewritten in place.
ACP: starts empty; ids count up too, but a failed prompt takes the agent's message away and its id is not used again.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

Mode: TypeAlias = Literal["pty", "acp"]
Status: TypeAlias = Literal["running", "stable"]

QUEUED_EVENTS = 1024
"""What a subscriber may lag behind before AgentAPI breaks its connection."""
KEPT_ERRORS = 100
ASCII_BLANKS = " \t\r\n\v\f"


class Message(TypedDict):
    """One entry of `GET /messages`."""

    id: int
    content: str
    role: str
    time: str


BOGUS: Message = {"id": 0, "content": "", "role": "", "time": "0001-01-01T00:00:00Z"}
"""What `GET /messages` appends when the list shrank between its two reads."""


@dataclass(frozen=True, slots=True)
class Event:
    kind: Literal["message_update", "status_change", "agent_error"]
    data: Mapping[str, object]


@dataclass(slots=True, eq=False)
class Follower:
    """One subscription: what was there when it began, then what came since."""

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
    """Messages, status and stored errors; every change is told to the followers."""

    def __init__(self, mode: Mode, *, now: Callable[[], float]) -> None:
        self.mode: Mode = mode
        self.messages: list[Message] = []
        self.status: Status = "stable"
        self.errors: list[Event] = []
        self.followers: set[Follower] = set()
        self.watchers: set[asyncio.Queue[str | None]] = set()
        """Who watches the screen: each change puts the whole of it, the server's stop None."""
        self.dirty = False
        """Whether a save would write: a user's message alone does not count (as in the real server)."""
        self._now = now
        self._next_id = 0
        self._colliding = False
        self.restart()

    def restart(self) -> None:
        """A new server life: nothing is remembered, ids begin again."""
        self.messages, self.errors, self._next_id, self._colliding = [], [], 0, False
        self.status, self.dirty = "stable", False
        if self.mode == "pty":
            self.add("agent", "")
            self.dirty = False

    def load(self, source: Path | str | Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Replace the list: a transcript file, its content `{"messages": […]}`, or messages with any keys left out."""
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
            self._tell(message)

    def add(self, role: str, content: str, time: str | None = None) -> Message:
        """Append a message. A user's is trimmed of ASCII blanks, as AgentAPI stores it."""
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
        self._tell(message)
        return message

    def rewrite_last(self, content: str) -> Message:
        """The screen changed: the last message has new content and, in PTY mode, a new time."""
        message = self.messages[-1]
        message = {
            **message,
            "content": content,
            "time": self.stamp() if self.mode == "pty" else message["time"],
        }
        self.messages[-1] = message
        self.dirty = True
        self._tell(message)
        return message

    def remove_last(self) -> None:
        """A prompt failed: its message goes, its id is spent, and no event says so."""
        self.messages.pop()

    def collide_ids(self) -> None:
        """From now on every id is given twice, to an old message and a new one (agentapi#205)."""
        self._colliding = True
        for index, message in enumerate(self.messages):
            self.messages[index] = {**message, "id": index // 2}

    def set_status(self, status: Status, *, agent_type: str | None) -> None:
        """Change the status; only a change is an event."""
        if status == self.status:
            return
        self.status = status
        self._push(status_event(status, agent_type))

    def error(self, message: str, level: Literal["warning", "error"]) -> None:
        """The agent complains; the newest hundred complaints are replayed to whoever subscribes."""
        event = Event("agent_error", {"message": message, "level": level, "time": self.stamp()})
        self.errors = [*self.errors, event][-KEPT_ERRORS:]
        self._push(event)

    def follow(self) -> Follower:
        """Subscribe: the state and all that follows it, with nothing lost in between."""
        follower = Follower(list(self.messages), self.status, list(self.errors))
        self.followers.add(follower)
        return follower

    @property
    def screen(self) -> str:
        """What the terminal shows: the last thing the agent said."""
        return next(
            (message["content"] for message in reversed(self.messages) if message["role"] == "agent"), ""
        )

    def stamp(self) -> str:
        """Now, as Go's RFC3339Nano: no trailing zeros."""
        now = datetime.fromtimestamp(self._now(), UTC)
        fraction = f".{now.microsecond:06d}".rstrip("0").rstrip(".")
        return now.strftime("%Y-%m-%dT%H:%M:%S") + fraction + "Z"

    def _take_id(self) -> int:
        if self._colliding:
            return len(self.messages) // 2
        taken, self._next_id = self._next_id, self._next_id + 1
        return taken

    def _tell(self, message: Message) -> None:
        self._push(update_event(message))
        for watcher in self.watchers:
            watcher.put_nowait(self.screen)

    def _push(self, event: Event) -> None:
        for follower in self.followers:
            follower.push(event)


def update_event(message: Message) -> Event:
    """`message_update`: its text is under `message`, not `content`."""
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
    """`status_change`; versions without agent_type leave it out."""
    return Event("status_change", {"status": status} | ({"agent_type": agent_type} if agent_type else {}))
