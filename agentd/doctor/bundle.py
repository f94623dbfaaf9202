"""The content of a debug bundle, and its archive.

It goes to people outside, so it has no message texts, no output of programs, and no secrets (`scrub`).
"""

import io
import itertools
import json
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agentd.clock import rfc3339
from agentd.snapshots.entry import DamagedError, NewerSpoolSchemaError, SpoolEntry
from agentd.snapshots.spool_files import read_entry

LISTED_MAX: Final = 1000

# Keys of the daemon's responses whose texts come from people or programs.
_TEXT_KEYS: Final = frozenset({"tail", "content", "message", "prompt"})


def without_texts(value: Any) -> Any:  # noqa: ANN401 - JSON
    """A response of the daemon in which output of programs and message texts are replaced by their sizes."""
    match value:
        case {"name": str(name), "detail": str(detail), **rest} if name != "coder" and detail:
            # The receipt of a destination: its detail is the output of a program or the answer of a server.
            return {"name": name, "detail": _size_of(detail), **without_texts(rest)}
        case dict():
            return {
                key: _size_of(item)
                if key in _TEXT_KEYS and isinstance(item, str) and item
                else without_texts(item)
                for key, item in value.items()
            }
        case list():
            return [without_texts(item) for item in value]
        case _:
            return value


def list_files(folder: Path) -> list[dict[str, Any]]:
    """At most `LISTED_MAX` files below `folder`, without those in directories that cannot be read."""
    found: list[dict[str, Any]] = []
    below = (Path(at, name) for at, folders, names in os.walk(folder) for name in sorted(folders + names))
    for path in itertools.islice(below, LISTED_MAX):
        name = str(path.relative_to(folder))
        try:
            info = path.lstat()
        except OSError as exc:
            found.append({"name": name, "error": exc.strerror})
            continue
        found.append(
            {
                "name": name,
                "kind": stat.filemode(info.st_mode)[0],
                "mode": f"{stat.S_IMODE(info.st_mode):04o}",
                "uid": info.st_uid,
                "bytes": info.st_size,
                "changed_at": _time(info.st_mtime),
            }
        )
    return found


def _time(unix_s: float) -> str:
    try:
        return rfc3339(unix_s)
    except ValueError as exc:  # a program can set any time
        return str(exc)


def spool_headers(spool: Path) -> list[dict[str, Any]]:
    """The snapshots in the spool, without their messages."""
    return [
        {"file": name, **({"error": entry} if isinstance(entry, str) else without_texts(entry.header()))}
        for name, entry in _spool_entries(spool)
    ]


def conversations(spool: Path) -> dict[str, str]:
    """The messages of every readable snapshot: file name in the bundle → JSON."""
    return {
        f"conversation-{entry.task_id or 'no-task'}.json": entry.payload.decode("utf-8", "replace")
        for _, entry in _spool_entries(spool)
        if not isinstance(entry, str)
    }


def pack(files: Mapping[str, str], *, folder: str, at_unix_s: float) -> bytes:
    """A gzipped tar of `files` below `folder`, without the name of the user who made it."""
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


def _spool_entries(spool: Path) -> Iterator[tuple[str, SpoolEntry | str]]:
    """File name, and the snapshot or the reason why it cannot be read."""
    for file in sorted(spool.glob("*.snapshot")):
        try:
            yield file.name, read_entry(file)
        except (DamagedError, NewerSpoolSchemaError, OSError) as exc:
            yield file.name, str(exc)


def _size_of(text: str) -> str:
    return f"[withheld, {len(text.encode('utf-8', 'surrogatepass'))} bytes]"
