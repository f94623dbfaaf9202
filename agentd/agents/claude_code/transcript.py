"""Folds the records of a Claude Code transcript into messages and the state of the turn. Pure.

Each record is one line of `projects/…/SESSION.jsonl`. Records form a tree by `parentUuid`: a rewind leaves a dead branch
behind, so the conversation is the chain from the last record back. One answer of the model is several records with one
`message.id`. Measured with 2.1.330; the vendor calls the format internal, so an unknown record is only counted.
"""

from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple
from zlib import crc32

from agentd.conversation.message import Message

NODES_MAX: Final = 5_000
"""Records after which those are dropped that are not needed for the newest messages."""
TEXT_MAX: Final = 4 << 20
"""Characters of text after which the same happens."""
RECENT: Final = 1_000
"""Records that are then kept in any case: a rewind goes back to one of them."""

# Records that are neither conversation nor the state of a turn, as far as they are known.
_SIDE_TYPES: Final = frozenset(
    {
        "agent-name", "ai-title", "api-request", "api-request-blob", "api-request-shape", "atis-latch", "attachment",
        "cost-state", "custom-title", "file-history-snapshot", "last-prompt", "mode", "model_changed",
        "permission-mode", "pr-link", "progress", "queue-operation", "summary", "system", "tools-used",
    }
)  # fmt: skip
_SPEAKERS: Final = ("user", "assistant")
_TURN_ENDS: Final = frozenset({"end_turn", "stop_sequence", "max_tokens", "refusal"})
_REQUEST: Final = b'{"type":"api-request'
_INTERRUPTED: Final = "[Request interrupted by user"
# A body that begins with one of these was made by Claude Code itself.
_COMMAND: Final = ("<command-name>", "<command-message>")
_COMMAND_OUTPUT: Final = ("<local-command-stdout>", "<local-command-stderr>")
_SHELL_OUTPUT: Final = ("<bash-stdout>", "<bash-stderr>")
_NOTIFICATION: Final = "<task-notification>"
_MARKUP: Final = (
    *_COMMAND, *_COMMAND_OUTPUT, *_SHELL_OUTPUT, _NOTIFICATION, "<bash-input>", "<local-command-caveat>",
    "<command-args>", "<system-reminder>",
)  # fmt: skip
# How a prompt came in, as far as a person wrote it.
_PROMPT_SOURCES: Final = frozenset({"typed", "queued", "sdk"})

Record = dict[str, object]


def skim(line: bytes) -> Record | None:
    """{} for a line that need not be parsed: the requests to the model are most of a file, and no part of the tree."""
    return {} if line.startswith(_REQUEST) else None


class Tool(NamedTuple):
    """A tool call without a result. `detail` is the question it asks, or its own description of itself."""

    name: str
    detail: str


class Turn(NamedTuple):
    """The last turn. Times are Unix seconds, 0 where they are not known.

    `is_open`: it has begun, and nothing says that it ended. `by_user`: the user began it, not a notification. `end`
    names the record that ended it, "" before any turn ended. `background`: subagents that ran when it ended and have
    not announced their end.
    """

    is_open: bool = False
    by_user: bool = False
    began_at: float = 0.0
    changed_at: float = 0.0
    end: str = ""
    background: int = 0
    tools: tuple[Tool, ...] = ()


class _Node(NamedTuple):
    """A record in the tree. `before` is the record in front of it in the file, `key` its message."""

    parent: str
    before: str
    key: str


class _Entry(NamedTuple):
    role: str
    id: int
    time: str
    texts: tuple[str, ...]


class Transcript:
    """One session. `keep`: the newest messages that can be asked for.

    `add` takes the records in the order of the file. What follows from a part of the file that goes back to where
    `is_enough` was true is the same as what follows from the whole file.
    """

    def __init__(self, keep: int) -> None:
        self.turn = Turn()
        self.prompted_at = 0.0
        self.directory = ""
        self._keep = keep
        self._nodes: dict[str, _Node] = {}
        self._entries: dict[str, _Entry] = {}
        self._tools: dict[str, Tool] = {}
        self._last = ""
        self._leaf = ""
        self._in_command = False
        self._size = 0
        self._nodes_max, self._text_max = NODES_MAX, TEXT_MAX
        self._is_pruned = False
        self._chains: dict[int, tuple[list[str], list[str], bool]] = {}

    def add(self, records: Iterable[Record]) -> dict[str, int]:
        """Take in further records. Returns how many were skipped, by reason: `unknown`, `malformed`."""
        skipped: dict[str, int] = {}
        for record in records:
            self._chains.clear()
            reason = self._add(record)
            if reason:
                skipped[reason] = skipped.get(reason, 0) + 1
        if len(self._nodes) > self._nodes_max or self._size > self._text_max:
            self._prune()
        return skipped

    @property
    def messages(self) -> tuple[Message, ...]:
        """The newest `keep` messages of the live chain, oldest first."""
        keys, _, _ = self._chain(self._keep)
        entries = [self._entries[key] for key in reversed(keys)]
        return tuple(Message(one.id, one.role, "\n\n".join(one.texts), one.time) for one in entries)

    @property
    def is_enough(self) -> bool:
        """Whether earlier records would change nothing."""
        keys, _, is_broken = self._chain(self._keep + 1)
        return self.prompted_at > 0 and len(keys) > self._keep and not is_broken

    @property
    def lacks_records(self) -> bool:
        """Whether the live chain leads to records that were dropped: the file must be read anew."""
        return self._is_pruned and self._chain(self._keep)[2]

    # One record.

    def _add(self, record: Record) -> str:
        """Returns why the record was skipped, "" if it was not."""
        kind = record.get("type")
        uuid = _text(record.get("uuid"))
        if not isinstance(kind, str):
            return "malformed"
        if record.get("isSidechain") is True or (uuid and uuid in self._nodes):
            return ""  # a subagent's, or repeated by a version that copied the history at a resume
        if kind in _SPEAKERS and not isinstance(record.get("message"), dict):
            key, reason = "", "malformed"
        else:
            key = self._take(kind, record, uuid)
            reason = "" if kind in _SPEAKERS or kind in _SIDE_TYPES else "unknown"
        if uuid:
            # The parent of the first record after a compaction is in another field.
            parent = _text(record.get("parentUuid")) or _text(record.get("logicalParentUuid"))
            self._nodes[uuid] = _Node(parent, self._last, key)
            self._last = uuid
            if kind in _SPEAKERS and not reason:
                self._leaf = uuid
        return reason

    def _take(self, kind: str, record: Record, uuid: str) -> str:
        """Take in a record for the turn and the messages. Returns the key of the message that it is a part of."""
        if kind in ("user", "assistant", "system"):
            self.directory = _text(record.get("cwd")) or self.directory
        match kind:
            case "user":
                return self._add_user(record, uuid)
            case "assistant":
                return self._add_assistant(record, uuid)
            case "system":
                self._add_system(record)
            case "queue-operation":
                self._add_queue_operation(record)
        return ""

    def _add_user(self, record: Record, uuid: str) -> str:
        if record.get("isCompactSummary") is True or record.get("isMeta") is True:
            return ""
        message = record["message"]
        content = message.get("content") if isinstance(message, dict) else None
        results = [_text(block.get("tool_use_id")) for block in _blocks(content, "tool_result")]
        if results:
            for tool in results:
                self._tools.pop(tool, None)
            self._change(record)
            return ""
        text = _joined(content)
        if _text(record.get("promptSource")) not in _PROMPT_SOURCES:
            if text.startswith(_INTERRUPTED):
                self._end(record, "interrupted")
                return ""
            if text.lstrip().startswith(_MARKUP):
                self._add_markup(record, text.lstrip())
                return ""
        # A prompt of images only has no text, and begins a turn as well.
        at = _seconds(record.get("timestamp"))
        self.prompted_at = at or self.prompted_at
        self._begin(record, by_user=True)
        return self._add_text(uuid, "user", record, [text])

    def _add_markup(self, record: Record, text: str) -> None:
        if text.startswith(_COMMAND):
            self._begin(record, by_user=True)
            self._in_command = True
        elif text.startswith(_COMMAND_OUTPUT):
            self._end_command(record)
        elif text.startswith(_NOTIFICATION):
            self._begin(record, by_user=False)
        elif text.startswith("<bash-input>") or (text.startswith(_SHELL_OUTPUT) and "turnOrigin" in record):
            # Before the field existed, the output of a `!command` began no turn.
            self._begin(record, by_user=True)
        elif text.startswith(_SHELL_OUTPUT):
            self._end(record, "shell command")

    def _add_assistant(self, record: Record, uuid: str) -> str:
        message = record["message"]
        if not isinstance(message, dict):
            return ""
        content = message.get("content")
        self._in_command = False
        is_synthetic = message.get("model") == "<synthetic>"
        is_error = record.get("isApiErrorMessage") is True
        for block in _blocks(content, "tool_use"):
            self._tools[_text(block.get("id"))] = _tool(block)
        if is_synthetic:
            self._end(record, "API error" if is_error else "interrupted")
        elif (stop_reason := _text(message.get("stop_reason"))) in _TURN_ENDS:
            self._end(record, stop_reason)
        else:
            self._change(record)
        if is_synthetic and not is_error:
            return ""  # "No response requested.", which completes an interrupted turn at a resume
        return self._add_text(_text(message.get("id")) or uuid, "agent", record, _texts(content))

    def _add_system(self, record: Record) -> None:
        subtype = record.get("subtype")
        if subtype == "turn_duration" and not (
            self.turn.is_open and 0 < _seconds(record.get("timestamp")) < self.turn.began_at
        ):
            self._end(record, "turn_duration")
            pending = [value for name, value in record.items() if name.startswith("pending")]
            counts = [value for value in pending if isinstance(value, int) and value > 0]
            self.turn = self.turn._replace(background=sum(counts))
        elif subtype == "local_command":
            self._end_command(record)

    def _add_queue_operation(self, record: Record) -> None:
        text = _text(record.get("content"))
        if record.get("operation") == "enqueue" and text.startswith(_NOTIFICATION) and self.turn.background:
            self.turn = self.turn._replace(background=self.turn.background - 1)

    # The turn.

    def _begin(self, record: Record, *, by_user: bool) -> None:
        at = _seconds(record.get("timestamp"))
        background = 0 if by_user else self.turn.background
        self._tools.clear()
        self._in_command = False
        self.turn = Turn(is_open=True, by_user=by_user, began_at=at, changed_at=at, background=background)

    def _change(self, record: Record) -> None:
        at = _seconds(record.get("timestamp")) or self.turn.changed_at
        self.turn = self.turn._replace(is_open=True, end="", changed_at=at, tools=tuple(self._tools.values()))

    def _end(self, record: Record, end: str) -> None:
        at = _seconds(record.get("timestamp")) or self.turn.changed_at
        self._tools.clear()
        self._in_command = False
        self.turn = self.turn._replace(is_open=False, end=end, changed_at=at, tools=())

    def _end_command(self, record: Record) -> None:
        if self._in_command:
            self._end(record, "command")

    # The messages.

    def _add_text(self, key: str, role: str, record: Record, texts: list[str]) -> str:
        """Add the texts to the message `key`. Returns the key, "" for a record that adds no text."""
        texts = [text for text in texts if text.strip()]
        if not texts or not key:
            return ""
        key = f"{role} {key}"
        entry = self._entries.get(key)
        if entry is None:
            time = _text(record.get("timestamp"))
            entry = _Entry(role, _message_id(key, time), time, ())
        self._entries[key] = entry._replace(texts=(*entry.texts, *texts))
        self._size += sum(map(len, texts))
        return key

    def _chain(self, keep: int) -> tuple[list[str], list[str], bool]:
        """The chain back from the last record, as far as it has `keep` messages; newest first.

        Returns the keys of the messages, the ids of the records, and whether a record between them is missing.
        """
        if keep not in self._chains:
            self._chains[keep] = self._walk(keep)
        return self._chains[keep]

    def _walk(self, keep: int) -> tuple[list[str], list[str], bool]:
        keys: dict[str, None] = {}
        visited: dict[str, None] = {}
        is_broken = False
        uuid = self._leaf
        node = self._nodes.get(uuid)
        while node is not None and len(keys) < keep:
            visited[uuid] = None
            if node.key:
                keys[node.key] = None
            uuid = node.parent
            if uuid and (uuid not in self._nodes or uuid in visited):
                # A line was lost, or is damaged. The record in front of it is the best guess.
                is_broken = True
                uuid = node.before
                while uuid in visited:
                    uuid = self._nodes[uuid].before
            node = self._nodes.get(uuid)
        return list(keys), list(visited), is_broken

    def _prune(self) -> None:
        """Drop the records that are not needed for the newest messages, and link the others."""
        keys, visited, is_broken = self._chain(self._keep + 1)
        if is_broken and len(self._nodes) < 10 * NODES_MAX and self._size < 10 * TEXT_MAX:
            # The missing record may be in a part of the file that is not read yet.
            self._nodes_max, self._text_max = 2 * len(self._nodes), 2 * max(TEXT_MAX, self._size)
            return
        self._chains.clear()
        nodes, order = self._nodes, list(self._nodes)
        behind = order[order.index(self._leaf) + 1 :] if self._leaf in nodes else order[-RECENT:]
        chain = [uuid for number, uuid in enumerate(visited) if number < RECENT or nodes[uuid].key]
        linked = {uuid: nodes[uuid]._replace(parent=older, before=older) for uuid, older in pairwise(chain)}
        kept = {*chain, *behind}
        self._nodes = {uuid: linked.get(uuid, nodes[uuid]) for uuid in order if uuid in kept}
        self._entries = {key: entry for key, entry in self._entries.items() if key in keys}
        self._size = sum(len(text) for entry in self._entries.values() for text in entry.texts)
        self._is_pruned = True
        self._nodes_max = max(NODES_MAX, 2 * len(self._nodes))
        self._text_max = max(TEXT_MAX, 2 * self._size)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _blocks(content: object, kind: str) -> list[dict[str, object]]:
    blocks = content if isinstance(content, list) else []
    return [block for block in blocks if isinstance(block, dict) and block.get("type") == kind]


def _texts(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [_text(block.get("text")) for block in _blocks(content, "text")]


def _joined(content: object) -> str:
    return "\n\n".join(text for text in _texts(content) if text)


def _tool(block: dict[str, object]) -> Tool:
    given = block.get("input")
    detail = ""
    if isinstance(given, dict):
        questions = given.get("questions")
        asked = questions[0] if isinstance(questions, list) and questions else None
        detail = _text(asked.get("question")) if isinstance(asked, dict) else _text(given.get("description"))
    return Tool(_text(block.get("name")), detail)


def _seconds(time: object) -> float:
    """RFC 3339 as Unix seconds, 0 if it is not that."""
    try:
        return max(0.0, datetime.fromisoformat(_text(time)).timestamp())
    except (ValueError, OverflowError, OSError):
        return 0.0


def _message_id(key: str, time: str) -> int:
    """A number that stays the same at each read, grows with the time, and is exact in a double."""
    return int(_seconds(time) * 1000) % (9 * 10**12) * 1000 + crc32(key.encode("utf-8", "replace")) % 1000
