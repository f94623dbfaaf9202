"""What goes into a debug bundle, and the archive itself. A stranger reads it, so nothing secret and nobody's words.

Withheld are the conversation, the output of hooks and of destination programs, and every secret (`scrub`).
"""

import io
import json
import stat
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agentd.clock import rfc3339
from agentd.snapshots.entry import FILE_MAX_BYTES, DamagedError, NewerSpoolSchemaError, SpoolEntry, decode

LISTED_MAX: Final = 1000

# What somebody said or a program printed, wherever it stands in an answer of the daemon.
_WORDS: Final = frozenset({"tail", "content", "message", "prompt"})


def without_words(value: Any) -> Any:  # noqa: ANN401 - JSON
    """An answer of the daemon without output of programs and words of people: their sizes instead."""
    match value:
        case {"name": str(name), "detail": str(detail), **rest} if name != "coder" and detail:
            return {"name": name, "detail": _withheld(detail), **without_words(rest)}
        case dict():
            return {
                key: _withheld(item)
                if key in _WORDS and isinstance(item, str) and item
                else without_words(item)
                for key, item in value.items()
            }
        case list():
            return [without_words(item) for item in value]
        case _:
            return value


def listing(folder: Path) -> list[dict[str, Any]]:
    """Every file below `folder`, at most `LISTED_MAX`: name, size, mode, owner, time. Links are not followed."""
    found: list[dict[str, Any]] = []
    for path in _below(folder):
        try:
            info = path.lstat()
        except OSError as error:
            found.append({"name": str(path.relative_to(folder)), "error": error.strerror})
            continue
        found.append(
            {
                "name": str(path.relative_to(folder)),
                "kind": stat.filemode(info.st_mode)[0],
                "mode": f"{stat.S_IMODE(info.st_mode):04o}",
                "uid": info.st_uid,
                "bytes": info.st_size,
                "changed_at": rfc3339(info.st_mtime),
            }
        )
        if len(found) >= LISTED_MAX:
            break
    return found


def spool_headers(spool: Path) -> list[dict[str, Any]]:
    """What the spool holds, without the conversations."""
    found: list[dict[str, Any]] = []
    for file in sorted(spool.glob("*.snapshot")):
        entry = read_entry(file)
        if isinstance(entry, str):
            found.append({"file": file.name, "error": entry})
            continue
        found.append(
            {
                "file": file.name,
                "task_id": entry.task_id,
                "serial": entry.serial,
                "captured_at": entry.captured_at,
                "messages": entry.messages,
                "bytes": len(entry.payload),
                "truncated": entry.truncated,
                "receipts": [without_words(receipt.as_json()) for receipt in entry.receipts.values()],
            }
        )
    return found


def read_entry(file: Path) -> SpoolEntry | str:
    """The snapshot in `file`, or what is wrong with it. Nothing is repaired."""
    try:
        with file.open("rb") as opened:
            return decode(opened.read(FILE_MAX_BYTES + 1))
    except (DamagedError, NewerSpoolSchemaError, OSError) as error:
        return str(error)


def pack(files: Mapping[str, str], *, folder: str, at_unix_s: float) -> bytes:
    """A gzipped tar of `files` below `folder`; who made it and on which account is not in it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            content = text.encode("utf-8", "backslashreplace")
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mtime, member.mode = len(content), at_unix_s, 0o600
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def as_text(value: Any) -> str:  # noqa: ANN401 - JSON
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _withheld(text: str) -> str:
    return f"[withheld, {len(text.encode('utf-8', 'surrogatepass'))} bytes]"


def _below(folder: Path) -> Iterator[Path]:
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return  # the doctor says why it cannot be read
    for child in children:
        yield child
        if child.is_dir() and not child.is_symlink():
            yield from _below(child)
