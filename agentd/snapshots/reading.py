r"""Reads a stored conversation back: from the spool on disk, or from the bytes of a document, wherever they came from.

Nothing here changes anything or needs a daemon, a lock or a server. Three forms are understood:

    {"messages":[…]}                                       a payload, as destinations hold it
    {"format":"agentapi","data":{"messages":[…]}}          coderd's row of it
    agentd-snapshot 1 5f3a… {…}\n{"messages":[…]}           a file of the spool (`entry`)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentd.conversation.message import Message, NotAMessage, parse_message
from agentd.conversation.sanitize import FALLBACK_TIME
from agentd.errors import AgentdError, UnavailableError
from agentd.snapshots import entry as format_
from agentd.snapshots.entry import DamagedError, NewerSchemaError, SpoolEntry
from agentd.snapshots.spool import look

DOCUMENT_MAX_BYTES: Final = 1 << 20
"""More than any of the three forms takes: coderd writes one byte of a payload in at most six."""

_SPOOL_MAGIC: Final = b"agentd-snapshot "


class NoConversationError(AgentdError):
    """The bytes are no stored conversation. The message says whose and why."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A conversation as it was found at `source`; `document` are its bytes, of a spool file those that are delivered.

    `task_id` and `captured_at` are "" where the form does not tell them. `skipped` counts entries that are no messages.
    """

    source: str
    document: bytes
    messages: tuple[Message, ...]
    task_id: str = ""
    captured_at: str = ""
    skipped: int = 0


def last(folder: Path, *, task_id: str = "") -> Stored:
    """The newest snapshot in the spool at `folder`; with `task_id`, that task's.

    Raises `UnavailableError` when there is none that can be read; the message names what cannot.
    """
    entries, wrong = look(folder)
    chosen = [entry for entry in entries if task_id in ("", entry.task_id)]
    if not chosen:
        whose = f" of task {task_id}" if task_id else ""
        raise UnavailableError(
            f"no snapshot{whose} in {folder}" + (f" ({'; '.join(wrong)})" if wrong else ""),
            hint="name the state directory with AGENTD_STATE_DIR or --set state.dir=…",
        )
    return _of_entry(chosen[-1], str(folder))


def parse(document: bytes, source: str) -> Stored:
    """What `document` holds. Raises `NoConversationError`."""
    if len(document) > DOCUMENT_MAX_BYTES:
        raise NoConversationError(f"{source}: larger than {DOCUMENT_MAX_BYTES:,} bytes, so no snapshot")
    if document.startswith(_SPOOL_MAGIC):
        try:
            return _of_entry(format_.decode(document), source)
        except (DamagedError, NewerSchemaError) as error:
            raise NoConversationError(f"{source}: a spool file that cannot be read: {error}") from error
    try:
        value = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise NoConversationError(
            f"{source}: not JSON ({type(error).__name__} in {len(document):,} bytes)",
            hint="give the address of the document itself, not of a page about it",
        ) from error
    return _of_entries(_message_list(value, source), document, source)


def _of_entry(entry: SpoolEntry, source: str) -> Stored:
    found = parse(entry.payload, source)
    return Stored(
        source, entry.payload, found.messages, entry.task_id, entry.captured_at, skipped=found.skipped
    )


def _message_list(value: object, source: str) -> list[Any]:
    if isinstance(value, dict) and "format" in value:
        if value["format"] != "agentapi":
            raise NoConversationError(
                f'{source}: expected format "agentapi", got {json.dumps(value["format"])[:40]}'
            )
        value = value.get("data")
    found = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise NoConversationError(
            f'{source}: JSON without a list of "messages"', hint="is it another kind of document?"
        )
    return found


def _of_entries(entries: list[Any], document: bytes, source: str) -> Stored:
    messages: list[Message] = []
    for entry in entries:
        if isinstance(entry, Mapping):
            try:
                # As Go's decoder: what is missing is its zero, and only the role has to be somebody's.
                messages.append(parse_message({"id": 0, "content": "", "time": FALLBACK_TIME, **entry}))
            except NotAMessage:
                continue
    return Stored(source, document, tuple(messages), skipped=len(entries) - len(messages))
