r"""One snapshot of the spool, and the format of its file.

    agentd-snapshot 1 5f3a… {"task_id":"…","serial":7,"captured_at":"…","messages":10,"bytes":65530,…}\n
    {"messages":[…]}

The first line has the magic word, the schema, a CRC-32 of schema and header, and the header. The exact payload follows,
so `tail -n +2` prints what is sent. Every later schema keeps the form of the first line, so that an older agentd can
distinguish a newer file from a damaged one.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeVar

from agentd import strict_json
from agentd.conversation.fit import messages_of
from agentd.conversation.message import CUT_MARK, Message
from agentd.snapshots.receipts import DestinationOutcome, DestinationReceipt

SCHEMA: Final = 1
FILE_MAX_BYTES: Final = 512 * 1024
"""More than payload, header and receipts need. A larger file was not written by agentd and is not read."""

T = TypeVar("T")

_HEAD: Final = re.compile(rb"agentd-snapshot (\d{1,9}) ([0-9a-f]{8}) (\{[^\n]*\})\n")


class DamagedError(ValueError):
    """The bytes are not a whole snapshot file. The message says what is wrong."""


class NewerSpoolSchemaError(ValueError):
    """The file was written by a newer agentd."""

    def __init__(self, schema: int) -> None:
        super().__init__(f"schema {schema}, this agentd reads {SCHEMA}")
        self.schema = schema


@dataclass(frozen=True)
class SpoolEntry:
    """The newest snapshot of one task.

    `messages` counts them. `serial` grows with every snapshot of the spool and does not depend on the wall clock.
    `receipts` are by destination name. `durable` is False until exactly this entry, with its receipts, is on disk.
    """

    task_id: str
    payload: bytes
    messages: int
    truncated: bool
    captured_at: str
    serial: int
    receipts: Mapping[str, DestinationReceipt] = field(default_factory=dict)
    durable: bool = True

    @cached_property
    def sha256(self) -> str:
        """The hex digest of the payload."""
        return hashlib.sha256(self.payload).hexdigest()

    def header(self) -> dict[str, Any]:
        """Everything but the payload, as JSON."""
        return {
            "task_id": self.task_id,
            "serial": self.serial,
            "captured_at": self.captured_at,
            "messages": self.messages,
            "truncated": self.truncated,
            "bytes": len(self.payload),
            "sha256": self.sha256,
            "receipts": [receipt._asdict() for receipt in self.receipts.values()],
        }

    def continues(self, earlier: "SpoolEntry") -> bool:
        """Return True if this is a later state of the same conversation, as far as the payloads show it.

        AgentAPI rewrites only the agent's newest message; the others keep id, role, time and text. So the newest other
        message of `earlier` must be here. A start screen, the agent's only message, is recognised by id and role. False
        if the window has moved on so far that the payloads have no message in common.
        """
        try:
            before, now = messages_of(earlier.payload), messages_of(self.payload)
        except ValueError:
            return True  # another program wrote the file: it holds no conversation
        if not before or before[-1].role == "user":
            fixed = before[-1:]
        else:
            fixed = before[-2:-1]
            if not fixed:
                return any((message.id, message.role) == (before[0].id, before[0].role) for message in now)
        return all(any(_is_same(message, one) for message in now) for one in fixed)

    def delivered_to(self, destination: str) -> bool:
        """Return True if `destination` has accepted exactly this snapshot."""
        receipt = self.receipts.get(destination)
        return receipt is not None and receipt.outcome is DestinationOutcome.DELIVERED


def encode(entry: SpoolEntry) -> bytes:
    """Return the bytes of the file."""
    header = json.dumps(entry.header(), separators=(",", ":")).encode()
    return b"agentd-snapshot %d %08x %b\n%b" % (SCHEMA, _crc(SCHEMA, header), header, entry.payload)


def decode(data: bytes) -> SpoolEntry:
    """Return the entry that `encode` wrote. Raises `DamagedError` or `NewerSpoolSchemaError`."""
    head = _HEAD.match(data)
    if head is None:
        raise DamagedError("no header line")
    schema, header, payload = int(head[1]), head[3], data[head.end() :]
    if int(head[2], 16) != _crc(schema, header):
        raise DamagedError("header checksum does not match")
    if schema > SCHEMA:
        raise NewerSpoolSchemaError(schema)
    try:
        fields = strict_json.loads(header)
        receipts = [
            DestinationReceipt(
                _typed(receipt["name"], str),
                DestinationOutcome(receipt["outcome"]),
                None if receipt["status"] is None else _typed(receipt["status"], int),
                _typed(receipt["detail"], str),
                _typed(receipt["attempts"], int),
                _typed(receipt["at"], str),
            )
            for receipt in fields["receipts"]
        ]
        entry = SpoolEntry(
            task_id=_typed(fields["task_id"], str),
            payload=payload,
            messages=_typed(fields["messages"], int),
            truncated=_typed(fields["truncated"], bool),
            captured_at=_typed(fields["captured_at"], str),
            serial=_typed(fields["serial"], int),
            receipts={receipt.name: receipt for receipt in receipts},
        )
        expected_bytes, expected_sha256 = fields["bytes"], fields["sha256"]
    except (ValueError, TypeError, KeyError) as exc:
        raise DamagedError(f"header lacks a field or has a wrong one: {exc!r}") from exc
    if len(payload) != expected_bytes:
        raise DamagedError(f"payload has {len(payload)} bytes, not {expected_bytes}")
    if entry.sha256 != expected_sha256:
        raise DamagedError("payload checksum does not match")
    return entry


def _is_same(one: Message, other: Message) -> bool:
    """Whether these are one message. The oldest message of a payload may be truncated at its start."""
    if (one.id, one.role, one.time) != (other.id, other.role, other.time):
        return False
    short, long = sorted((one.content, other.content), key=len)
    return short == long or (short.startswith(CUT_MARK) and long.endswith(short.removeprefix(CUT_MARK)))


def _typed(value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} expected, got {type(value).__name__}")
    return value


def _crc(schema: int, header: bytes) -> int:
    return zlib.crc32(b"%d %b" % (schema, header))
