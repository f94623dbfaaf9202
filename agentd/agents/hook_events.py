"""An event of an agent's own hook, reduced to what the daemon needs. Pure.

`agentd hook` reduces the payload in the agent's process, so nothing else of it reaches the daemon. It starts once for each
event, in the agent's critical path: this module imports little.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

BUSY, IDLE, WAITING, GONE = "busy", "idle", "waiting", "gone"
"""The states. `gone`: the session has ended."""
STATES: Final = (BUSY, IDLE, WAITING, GONE)

PAYLOAD_MAX_BYTES: Final = 1 << 20
TEXT_MAX_BYTES: Final = 1024
DATAGRAM_MAX_BYTES: Final = 32 << 10
"""More than an event can have: each character of the directory and the text is escaped in at most 12 bytes."""
SOCKET_SUFFIX: Final = ".hook"
"""The daemon takes events on a socket whose path is that of `local_api.socket` with this suffix."""

_AGENT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SESSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIRECTORY_MAX_CHARS: Final = 1024
_TOOL_DETAILS: Final = ("description", "file_path", "url")
"""Not the command: it may hold a secret, and the question is shown to others."""

Payload = Mapping[str, Any]


class HookEvent(NamedTuple):
    """What one hook said of one session. `session` and `directory` are "" if the payload has none.

    `text` is the question of an agent that waits, and the last line of the answer of one that is idle.
    """

    agent: str
    session: str
    directory: str
    state: str
    text: str = ""

    def encode(self) -> bytes:
        """The datagram for the daemon."""
        return json.dumps(self).encode("ascii")


def reduced(agent: str, data: bytes) -> HookEvent | None:
    """The event in the payload `data` of a hook of `agent`; None if it changes nothing or is not understood."""
    payload, is_whole = _fields(data)
    if not _AGENT.fullmatch(agent):
        return None
    state, text = _MAPPINGS.get(agent, _generic)(payload) or _generic(payload) or ("", "")
    if not is_whole and state == IDLE and agent == "claude-code" and "background_tasks" not in payload:
        return None  # the list follows the text at which the payload was cut
    session = _text(payload, "session_id") or _text(payload, "thread-id")
    return _checked(agent, session, _text(payload, "cwd"), state, text)


def decoded(datagram: bytes) -> HookEvent | None:
    """The event of a datagram, None if it is not one."""
    try:
        values = json.loads(datagram)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or len(values) != 5 or not all(isinstance(one, str) for one in values):
        return None
    return _checked(*values)


def _checked(agent: str, session: str, directory: str, state: str, text: str) -> HookEvent | None:
    if not _AGENT.fullmatch(agent) or state not in STATES or (session and not _SESSION.fullmatch(session)):
        return None
    is_path = directory.startswith("/") and directory.isprintable() and len(directory) <= _DIRECTORY_MAX_CHARS
    return HookEvent(agent, session, directory if is_path else "", state, _line(text))


def _line(text: str) -> str:
    """`text` as one printable line of at most `TEXT_MAX_BYTES`."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[:TEXT_MAX_BYTES])
    return " ".join(line.split()).encode(errors="ignore")[:TEXT_MAX_BYTES].decode(errors="ignore")


def _fields(data: bytes) -> tuple[Payload, bool]:
    """The fields of a JSON object, and whether they are all. Of one that was cut, the fields before the cut."""
    text = data.decode(errors="replace")
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        return _fields_before_cut(text) if len(data) >= PAYLOAD_MAX_BYTES else {}, False
    return (payload, True) if isinstance(payload, dict) else ({}, True)


def _fields_before_cut(text: str) -> Payload:
    found: dict[str, Any] = {}
    parse = json.JSONDecoder().raw_decode
    space = re.compile(r"[\s,:]*")
    at = text.find("{") + 1
    try:
        while at:
            key, at = parse(text, _end(space, text, at))
            value, at = parse(text, _end(space, text, at))
            found[str(key)] = value
    except (ValueError, RecursionError):
        return found
    return found


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


# What the events mean: a state and its text, None for one that changes nothing.

Meaning = tuple[str, str] | None


def _generic(payload: Payload) -> Meaning:
    return (_text(payload, "state"), _text(payload, "message")) if "state" in payload else None


def _claude_code(payload: Payload) -> Meaning:
    """Claude Code 2.1.330. A subagent (`agent_id`) counts only when it asks: its turn is not the session's."""
    match _text(payload, "hook_event_name"):
        case "PermissionRequest":
            return WAITING, _question(payload)
        case _ if "agent_id" in payload:
            return None
        case "UserPromptSubmit" | "PostToolUse" | "PostToolUseFailure":
            return BUSY, ""
        case "Stop":
            text = _last_line(payload, "last_assistant_message")
            return (BUSY, "") if _works_on(payload) else (IDLE, text)
        case "StopFailure":
            return IDLE, _last_line(payload, "last_assistant_message")
        case "Notification":
            kind = _text(payload, "notification_type")
            state = {"permission_prompt": WAITING, "elicitation_dialog": WAITING, "idle_prompt": IDLE}.get(
                kind
            )
            return (state, _text(payload, "message") if state == WAITING else "") if state else None
        case "SessionEnd":
            return GONE, ""
    return None


def _codex(payload: Payload) -> Meaning:
    """Codex 0.169, whose hooks have the names of Claude Code's. `notify` has a form of its own."""
    if payload.get("type") == "agent-turn-complete":
        return IDLE, _last_line(payload, "last-assistant-message")
    if payload.get("hook_event_name") == "Interrupt" and "agent_id" not in payload:
        return IDLE, ""
    return _claude_code(payload)


def _gemini(payload: Payload) -> Meaning:
    """Gemini CLI 0.61."""
    match _text(payload, "hook_event_name"):
        case "BeforeAgent" | "AfterTool":
            return BUSY, ""
        case "AfterAgent":
            return IDLE, _last_line(payload, "prompt_response")
        case "Notification" if payload.get("notification_type") == "ToolPermission":
            return WAITING, _text(payload, "message")
        case "SessionEnd":
            return GONE, ""
    return None


_MAPPINGS: Final[Mapping[str, Callable[[Payload], Meaning]]] = {
    "claude-code": _claude_code,
    "codex": _codex,
    "gemini": _gemini,
}


def _works_on(payload: Payload) -> bool:
    """Whether something but a shell runs in the background: Claude Code itself calls a turn with a shell ended."""
    tasks = payload.get("background_tasks")
    return isinstance(tasks, list) and any(
        isinstance(task, dict) and task.get("type") != "shell" and task.get("status") == "running"
        for task in tasks
    )


def _question(payload: Payload) -> str:
    tool, given = _text(payload, "tool_name"), payload.get("tool_input")
    if not isinstance(given, dict):
        return f"permission prompt: {tool}"
    questions = given.get("questions")
    if isinstance(questions, list) and questions and isinstance(questions[0], dict):
        return _text(questions[0], "question")
    detail = next((text for name in _TOOL_DETAILS if (text := _text(given, name))), "")
    return f"permission prompt: {tool}" + (f" ({detail})" if detail else "")


def _last_line(payload: Payload, name: str) -> str:
    return next((line for line in reversed(_text(payload, name)[-4096:].splitlines()) if line.strip()), "")


def _text(payload: Payload, name: str) -> str:
    value = payload.get(name)
    return value if isinstance(value, str) else ""
