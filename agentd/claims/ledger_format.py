r"""The ledger's file format: one JSON object per line, with version, sequence number and checksum. Pure.

    {"crc":"1c291ca3","v":1,"seq":7,"kind":"start","at":1772442000.0,...}\n

`crc` is the CRC-32 of the line without the `crc` member, so it covers every other byte. `seq` counts from 1
without gaps, so a missing line is detected. An append-only file can fail in two ways, and the reader must
tell them apart. A crash during an append tears the *last* record: it was not fsynced yet, so no action
followed it, and the reader drops it silently. Any other defect is damage: a durable record is lost, and it
may have been a success.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from agentd import strict_json
from agentd.errors import StateError

SCHEMA: Final = 1

_HEAD: Final = b'{"crc":"'
_CRC_END: Final = len(_HEAD) + 8


class NewerLedgerError(StateError):
    """A newer agentd wrote the ledger. This agentd does not change it."""


class Scan(NamedTuple):
    """The readable records of a ledger file, and what is wrong with it in `damage`, "" if nothing is.

    `checksums` are those of the records. With `rewrite` the file must be rewritten before the next append: it is damaged, or its last record lacks
    only the newline. Otherwise the next record belongs at offset `sound_bytes`.
    """

    records: tuple[dict[str, Any], ...]
    checksums: tuple[int, ...]
    sound_bytes: int
    damage: str
    rewrite: bool


def encode(record: Mapping[str, Any], seq: int) -> bytes:
    """`record` as a line. ASCII, because file names can contain lone surrogates and line separators."""
    body = json.dumps({"v": SCHEMA, "seq": seq, **record}, separators=(",", ":")).encode("ascii")
    return b'%s%08x",%s\n' % (_HEAD, zlib.crc32(body), body[1:])


def checksum_of(line: bytes) -> int:
    """The checksum in a line that `encode` made."""
    return int(line[len(_HEAD) : _CRC_END], 16)


def decode(line: bytes) -> dict[str, Any] | None:
    """The record of a line without its newline; None if the line is not a whole record."""
    if not line.startswith(_HEAD) or line[_CRC_END : _CRC_END + 2] != b'",':
        return None
    body = b"{" + line[_CRC_END + 2 :]
    if b"%08x" % zlib.crc32(body) != line[len(_HEAD) : _CRC_END]:
        return None
    try:
        record = strict_json.loads(body)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("seq"), int) else None


def scan(data: bytes) -> Scan:
    """Read a whole file. Raises `NewerLedgerError`; reports every other defect in the result."""
    *lines, tail = data.split(b"\n")
    whole_tail = next((whole for whole in (tail, tail[:-1]) if decode(whole) is not None), None)
    if whole_tail is not None:
        lines.append(whole_tail)
    records: list[dict[str, Any]] = []
    checksums: list[int] = []
    damage, expected = "", 1
    for number, line in enumerate(lines, 1):
        record = decode(line)
        if record is None:
            damage = damage or f"line {number} is not a whole record"
            continue
        if record["seq"] != expected:
            damage = damage or f"line {number} is record {record['seq']}, expected record {expected}"
        if record.get("v") != SCHEMA:
            raise NewerLedgerError(
                f"the claim ledger has format {record.get('v')}; this agentd reads formats up to {SCHEMA}",
                hint="start the newer agentd again, or move the ledger file away, which forgets its claims",
            )
        expected = record["seq"] + 1
        records.append(record)
        checksums.append(checksum_of(line))
    return Scan(
        tuple(records),
        tuple(checksums),
        len(data) - len(tail),
        damage,
        bool(damage) or whole_tail is not None,
    )
