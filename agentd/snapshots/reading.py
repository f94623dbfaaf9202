r"""Reads a stored conversation back, from the spool on disk or from the bytes of a document.

Changes nothing and needs no daemon, lock or server. It understands three forms:

    {"messages":[…]}                                       a payload, as destinations hold it
    {"format":"agentapi","data":{"messages":[…]}}          coderd's form of it
    agentd-snapshot 1 5f3a… {…}\n{"messages":[…]}           a file of the spool (`entry.py`)
"""

import contextlib
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentd.conversation.message import Message, NotAMessageError, parse_message
from agentd.conversation.sanitize import FALLBACK_TIME
from agentd.errors import AgentdError, UnavailableError
from agentd.masking import excerpt
from agentd.snapshots.entry import DamagedError, NewerSpoolSchemaError, SpoolEntry, decode
from agentd.snapshots.spool_files import read_without_lock

DOCUMENT_MAX_BYTES: Final = 1 << 20
"""More than any of the three forms needs: coderd escapes one byte of a payload as at most six."""

_SPOOL_MAGIC: Final = b"agentd-snapshot "


class NoConversationError(AgentdError):
    """The bytes are not a stored conversation. The message names the source and the reason."""


class StoredConversation(NamedTuple):
    """A conversation that was read from `source`.

    `document` holds its bytes, for a spool file those of the payload. `task_id` and `captured_at` are "" if the form
    does not have them. `skipped` counts entries that are not messages.
    """

    source: str
    document: bytes
    messages: tuple[Message, ...]
    task_id: str = ""
    captured_at: str = ""
    skipped: int = 0


def newest_in_spool(folder: Path) -> StoredConversation:
    """Read the newest snapshot in the spool at `folder`.

    Raises `UnavailableError` if no snapshot can be read; the message lists the unreadable files.
    """
    entries, wrong = read_without_lock(folder)
    if not entries:
        raise UnavailableError(
            f"no snapshot in {folder}" + (f" ({'; '.join(wrong)})" if wrong else ""),
            hint="set the state directory with AGENTD_STATE_DIR or --set state.dir=…",
        )
    return _of_entry(entries[-1], str(folder))


def parse_document(document: bytes, source: str) -> StoredConversation:
    """Return the conversation that `document` holds. Raises `NoConversationError`."""
    if len(document) > DOCUMENT_MAX_BYTES:
        raise NoConversationError(f"{source}: not a snapshot: larger than {DOCUMENT_MAX_BYTES:,} bytes")
    if document.startswith(_SPOOL_MAGIC):
        try:
            return _of_entry(decode(document), source)
        except (DamagedError, NewerSpoolSchemaError) as exc:
            raise NoConversationError(f"{source}: cannot read this spool file: {exc}") from exc
    try:
        value = json.loads(document)
    except (ValueError, RecursionError) as exc:
        raise NoConversationError(
            f"{source}: not JSON ({type(exc).__name__} in {len(document):,} bytes)",
            hint="give the address of the document itself, not of a page about it",
        ) from exc
    entries = _message_list(value, source)
    messages = []
    for entry in entries:
        if isinstance(entry, dict):
            # Like Go's decoder: a missing field has its zero value. Only the role is required.
            with contextlib.suppress(NotAMessageError):
                messages.append(parse_message({"id": 0, "content": "", "time": FALLBACK_TIME, **entry}))
    return StoredConversation(source, document, tuple(messages), skipped=len(entries) - len(messages))


def _of_entry(entry: SpoolEntry, source: str) -> StoredConversation:
    found = parse_document(entry.payload, source)
    return found._replace(task_id=entry.task_id, captured_at=entry.captured_at)


def _message_list(value: object, source: str) -> list[Any]:
    if isinstance(value, dict) and "format" in value:
        if value["format"] != "agentapi":
            raise NoConversationError(
                f'{source}: expected format "agentapi", got {excerpt(json.dumps(value["format"]), 40)}'
            )
        value = value.get("data")
    found = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise NoConversationError(
            f'{source}: JSON without a list of "messages"',
            hint="give a snapshot, not another kind of document",
        )
    return found
