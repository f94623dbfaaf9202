"""Folds the records of a rollout, the session file of Codex, into a conversation and the state of its turn. Pure.

Formats: `codex-rs/rollout` and `codex-rs/protocol`. Both history modes have `response_item` records and the records of
turns, so only these are used: `event_msg` records repeat the messages. A record that is unknown changes nothing.
"""

import itertools
import json
import re
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from agentd.conversation.message import Message
from agentd.conversation.sanitize import clean_text
from agentd.masking import excerpt

Record = dict[str, Any]

# The order of the keys is the one in which Codex writes them. A line with another order is parsed.
_HEAD: Final = re.compile(
    rb'\{"timestamp":"[^"\\]*",(?:"ordinal":\d+,)?"type":"(\w+)","payload":\{(?:"type":"(\w+)")?'
)
_CALL_ID: Final = re.compile(rb'"call_id":"([\w.:-]{1,128})"')
_STARTS: Final = frozenset({"task_started", "turn_started"})
_ENDS: Final = frozenset({"task_complete", "turn_complete", "turn_aborted"})
_ROLLBACK: Final = "thread_rolled_back"
_CALLS: Final = frozenset({"function_call", "custom_tool_call", "local_shell_call"})
_OUTPUTS: Final = frozenset({"function_call_output", "custom_tool_call_output"})
_USED: Final = {
    "session_meta": frozenset({""}),
    "turn_context": frozenset({""}),
    "event_msg": _STARTS | _ENDS | {_ROLLBACK},
    "response_item": _CALLS | _OUTPUTS | {"message"},
}
_THREAD_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Text of the role `user` that Codex wrote itself. Since 0.169 `content_item_kinds` says so as well.
_WRAPPERS: Final = (
    "environment_context",
    "permissions instructions",
    "permissions",
    "turn_aborted",
    "subagent_notification",
    "user_instructions",
    "user_shell_command",
    "skill",
    "skills_instructions",
    "INSTRUCTIONS",
)
_WRAPPER: Final = re.compile(
    rf"\s*(?:<({'|'.join(_WRAPPERS)})>.*</\1>|# AGENTS\.md instructions for .*</INSTRUCTIONS>)\s*", re.DOTALL
)
_KINDS_OF_THE_USER: Final = "user."
_LINE_MAX_CHARS: Final = 200
_PATH_MAX_CHARS: Final = 4096


class Meta(NamedTuple):
    """The first record of a rollout. Later `session_meta` records are copies that a fork made."""

    thread: str
    directory: str
    started_at: str
    version: str
    parent: str
    is_subagent: bool


class Turn(NamedTuple):
    """A turn that is open. `id` is "" and `started_at` (Unix seconds) 0 where no record tells them."""

    id: str
    started_at: float


class Rollout:
    """The newest messages and the turn. Records are added in the order of the file, from any record on.

    `trim` drops all but the newest `keep` messages; call it after a read.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._messages: deque[tuple[int, Message]] = deque()
        self._number = 0
        self._trimmed = self._reached_back = self._needs_turns = False
        self._calls: dict[str, str] = {}
        self.turn: Turn | None = None
        self.ending = ""
        """How the last turn ended, in words; "" before an end was seen."""
        self.has_start = False
        self.directory = ""
        self.prompted_at = 0.0

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(message for _, message in self._messages)

    @property
    def question(self) -> str:
        """The tool call that has no result yet, for an agent that waits for an approval; "" if there is none."""
        return next(iter(self._calls.values()), "")

    @property
    def is_enough(self) -> bool:
        """Whether older records would change nothing."""
        is_certain = self.has_start and self.prompted_at > 0 and not self._needs_turns
        return is_certain and len(self._messages) >= self._keep

    @property
    def is_short(self) -> bool:
        """Whether a rollback needs older messages than are held, so that the file must be read again."""
        return self._reached_back and len(self._messages) < self._keep

    def trim(self) -> None:
        while len(self._messages) > self._keep:
            self._messages.popleft()
            self._trimmed = True

    def add(self, record: Record) -> None:
        payload = record.get("payload")
        if not isinstance(payload, dict):
            return
        at = _seconds(record.get("timestamp"))
        match record.get("type"):
            case "turn_context":
                self.directory = _path(payload.get("cwd")) or self.directory
            case "event_msg":
                self._add_event(payload, at)
            case "response_item":
                self._add_item(payload, _text(record.get("timestamp")), at)

    def assume_turn(self) -> None:
        """Count a turn as open if no record of a turn was found: it began before the first record."""
        if not self._has_turns:
            self.turn = Turn("", 0.0)

    @property
    def _has_turns(self) -> bool:
        return self.has_start or bool(self.ending)

    # Events.

    def _add_event(self, payload: Record, at: float) -> None:
        kind, turn = _text(payload.get("type")), _text(payload.get("turn_id"))
        if kind in _STARTS:
            # Codex runs one turn at a time: the turn of a killed process has no end, and the next one replaces it.
            self.turn, self.has_start = Turn(turn, at), True
            self._number += 1
            self._calls.clear()
        elif kind in _ENDS:
            self._end(turn, _ending(payload))
        elif kind == _ROLLBACK:
            self._roll_back(payload.get("num_turns"))

    def _end(self, turn: str, ending: str) -> None:
        if self.turn is None:
            self.ending = self.ending or ending
        elif not turn or not self.turn.id or turn == self.turn.id:
            self.turn, self.ending = None, ending
            self._calls.clear()

    def _roll_back(self, turns: object) -> None:
        if not isinstance(turns, int) or turns <= 0:
            return
        if not self._has_turns:
            self._needs_turns = True  # the turns that are removed may begin before the first record
            # A rollout of an old release, without records of turns: each prompt begins one.
            prompts = itertools.accumulate(message.role == "user" for _, message in self._messages)
            self._messages = deque(zip(prompts, self.messages, strict=True))
        prompted = sorted({number for number, message in self._messages if message.role == "user"})
        first = prompted[-turns] if turns <= len(prompted) else -1
        while self._messages and self._messages[-1][0] >= first:
            self._messages.pop()
        self._reached_back = self._trimmed

    # Messages.

    def _add_item(self, payload: Record, time: str, at: float) -> None:
        kind, call = _text(payload.get("type")), _text(payload.get("call_id"))
        if kind in _CALLS:
            self._calls[call] = _described(payload)
        elif kind in _OUTPUTS:
            self._calls.pop(call, None)
        elif kind == "message":
            self._add_message(payload, time, at)

    def _add_message(self, payload: Record, time: str, at: float) -> None:
        text = _content(payload)
        role = {"user": "user", "assistant": "agent"}.get(_text(payload.get("role")))
        if role is None or not text.strip() or not time:
            return
        if role == "user":
            if _is_of_codex(payload, text):
                return
            self.prompted_at = at
            if self.turn is None and self._has_turns:
                self._number += 1
        last = self._messages[-1][1].id if self._messages else 0
        number = max(last + 1, int(at * 1000))
        self._messages.append((self._number, Message(number, role, text, time)))


def folded(records: Iterable[Record], keep: int) -> Rollout:
    rollout = Rollout(keep)
    for record in records:
        rollout.add(record)
    return rollout


def meta_of(record: Record) -> Meta | None:
    """The description of a session; None if `record` is not one, or its thread id is not a UUID."""
    payload = record.get("payload")
    if record.get("type") != "session_meta" or not isinstance(payload, dict):
        return None
    thread, source = _text(payload.get("id")), payload.get("source")
    spawned = source.get("subagent") if isinstance(source, dict) else None
    spawn = spawned.get("thread_spawn") if isinstance(spawned, dict) else None
    parent = _text(payload.get("parent_thread_id"))
    if not parent and isinstance(spawn, dict):
        parent = _text(spawn.get("parent_thread_id"))
    if not is_thread_id(thread) or (parent and not is_thread_id(parent)):
        return None
    return Meta(
        thread,
        _path(payload.get("cwd")),
        (_text(payload.get("timestamp")) or _text(record.get("timestamp")))[:40],
        clean_text(_text(payload.get("cli_version")))[:40],
        parent,
        is_subagent=bool(parent or spawned or payload.get("thread_source") == "subagent"),
    )


def is_thread_id(text: str) -> bool:
    """Thread ids are UUIDs. Everything else is kept out of paths and URLs."""
    return _THREAD_ID.fullmatch(text) is not None


def skim(line: bytes) -> dict[str, Any] | None:
    """Recognise a line by its first bytes: {} if it is not used, None if it must be parsed.

    A tool result can have megabytes, and only its call id is used.
    """
    head = _HEAD.match(line)
    if head is None:
        return None
    kind, item = head[1].decode("ascii"), (head[2] or b"").decode("ascii")
    used = _USED.get(kind)
    if used is None or item not in used:
        return {}
    if item in _OUTPUTS and (call := _CALL_ID.search(line, head.end(), head.end() + 400)):
        return {"type": kind, "payload": {"type": item, "call_id": call[1].decode("ascii")}}
    return None


def _ending(payload: Record) -> str:
    error = payload.get("error")
    if isinstance(error, dict):
        return f"the turn failed: {_line(_text(error.get('message')))}"
    if payload.get("type") == "turn_aborted":
        return f"the turn was aborted ({_line(_text(payload.get('reason'))) or 'no reason'})"
    return "the turn is complete"


def _is_of_codex(payload: Record, text: str) -> bool:
    passed = payload.get("internal_chat_message_metadata_passthrough")
    kinds = passed.get("content_item_kinds") if isinstance(passed, dict) else None
    if isinstance(kinds, list) and kinds:
        return not any(str(kind).startswith(_KINDS_OF_THE_USER) for kind in kinds)
    return _WRAPPER.fullmatch(text) is not None


def _content(payload: Record) -> str:
    content = payload.get("content")
    if not isinstance(content, list):
        return ""
    parts = (part for part in content if isinstance(part, dict))
    kinds = ("input_text", "output_text", "text")
    return "\n".join(_text(part.get("text")) for part in parts if part.get("type") in kinds)


def _described(payload: Record) -> str:
    """A tool call as a question of the agent: what it wants to run, and why."""
    name = _line(_text(payload.get("name"))) or "a command"
    given = payload.get("arguments", payload.get("input", payload.get("action")))
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return f"{name}: {_line(given)}"
    if not isinstance(given, dict):
        return name
    command = given.get("cmd", given.get("command", ""))
    if isinstance(command, list):
        command = " ".join(map(str, command))
    why = _line(_text(given.get("justification")))
    return f"{name}: {_line(str(command))}" + (f" ({why})" if why else "")


def _seconds(time: object) -> float:
    """Unix seconds of an RFC 3339 time; 0.0 if it is none."""
    if not isinstance(time, str):
        return 0.0
    try:
        at = datetime.fromisoformat(time)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return 0.0


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _path(value: object) -> str:
    text = clean_text(_text(value))
    return text if len(text) <= _PATH_MAX_CHARS else ""


def _line(text: str) -> str:
    return excerpt(clean_text(" ".join(text.split())), _LINE_MAX_CHARS)
