r"""The ledger's file format: one JSON object per line, each with schema version, sequence number and checksum. Pure.

    {"crc":"1c291ca3","v":1,"seq":7,"kind":"start","at":1772442000.0,...}\n

`crc` is the CRC-32 of the line without its own member, so it covers every other byte; `seq` counts from 1 without gaps,
so a missing line is seen. An append-only file fails in two ways that must not be confused. A crash while appending
tears the *last* record: it was not yet synced, so nothing was acted on, and it is cut off in silence. Anything else is
damage: a record that was promised is gone, and it may have been a success.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agentd.errors import StateError

SCHEMA = 1

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

# Version -> what turns a record of that version into one of the next. Empty while there has been one version only.
MIGRATIONS: Mapping[int, Upgrade] = {}

_HEAD = b'{"crc":"'
_CRC_END = len(_HEAD) + 8


class NewerLedgerError(StateError):
    """The ledger was written by a newer agentd. It is left as it is."""


class Scan(NamedTuple):
    """What a ledger file holds.

    `records` are the readable ones in order, at the current version; `damage` says what is wrong with the file, "" when
    nothing is; `rewrite` says that the file must be written anew before it can be appended to (damage, an earlier
    version, a last line that lost its newline but is whole), else the next record belongs at `sound_bytes`.
    """

    records: tuple[dict[str, Any], ...]
    sound_bytes: int
    damage: str
    rewrite: bool


def encode(record: Mapping[str, Any], seq: int) -> bytes:
    """`record` as a line. ASCII only, so that no lone surrogate of a file name and no line separator gets in the way."""
    body = json.dumps({"v": SCHEMA, "seq": seq, **record}, separators=(",", ":")).encode("ascii")
    return b'%s%08x",%s\n' % (_HEAD, zlib.crc32(body), body[1:])


def decode(line: bytes) -> dict[str, Any] | None:
    """The record of a line without its newline, or None when it is not a whole one."""
    if not line.startswith(_HEAD) or line[_CRC_END : _CRC_END + 2] != b'",':
        return None
    body = b"{" + line[_CRC_END + 2 :]
    if b"%08x" % zlib.crc32(body) != line[len(_HEAD) : _CRC_END]:
        return None
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("seq"), int) else None


def scan(data: bytes, *, migrations: Mapping[int, Upgrade] = MIGRATIONS, schema: int = SCHEMA) -> Scan:
    """Read a whole file. Raises `NewerLedgerError`; anything else that is wrong is told in the result."""
    *lines, tail = data.split(b"\n")
    whole_tail = next((whole for whole in (tail, tail[:-1]) if decode(whole) is not None), None)
    if whole_tail is not None:
        lines.append(whole_tail)
    records: list[dict[str, Any]] = []
    damage, expected, old = "", 1, False
    for number, line in enumerate(lines, 1):
        record = decode(line)
        if record is None:
            damage = damage or f"line {number} is not a whole record"
            continue
        if record["seq"] != expected:
            damage = damage or f"line {number} is record {record['seq']}, not {expected}"
        expected = record["seq"] + 1
        old = old or record.get("v") != schema
        records.append(_upgraded(record, migrations, schema))
    return Scan(
        records=tuple(records),
        sound_bytes=len(data) - len(tail),
        damage=damage,
        rewrite=bool(damage) or old or whole_tail is not None,
    )


def _upgraded(record: dict[str, Any], migrations: Mapping[int, Upgrade], schema: int) -> dict[str, Any]:
    version = record.get("v")
    if not isinstance(version, int) or version > schema:
        raise NewerLedgerError(
            f"the claim ledger has format {version}, this agentd knows up to {schema}",
            hint="start the newer agentd again, or move the ledger away and forget its claims",
        )
    while version < schema:
        record = {**migrations[version](record), "v": version + 1}
        version += 1
    return record
