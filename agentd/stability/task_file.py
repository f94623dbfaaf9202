"""What holds for a task, over a restart of ours: one small file, replaced whole.

    {"turn": 3, "user": {"id": 4, "digest": 81, "at": "…"}, "told": {"word": "idle", "message": "", "uri": ""},
     "claims": [{"word": "complete", "source": "report", "at": "…", "message": "done", "uri": ""}]}

Times are Unix seconds there and monotonic seconds in memory: a monotonic clock starts anew with the machine.
"""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentd import log
from agentd.durable import replace_file
from agentd.stability.task_state import Claim, Kept, Source, TaskWord, UserMessage

__all__ = ["NAME", "Remembered", "Told", "read", "write"]

NAME: Final = "task.json"
FILE_MAX_BYTES: Final = 1 << 20


class Told(NamedTuple):
    """What coderd took last."""

    word: TaskWord
    message: str = ""
    uri: str = ""


class Remembered(NamedTuple):
    """What a run knows of those before it."""

    kept: Kept = Kept()
    told: Told | None = None


def write(path: Path, remembered: Remembered, *, since_s: float) -> None:
    """Blocks on the disk; raises `OSError`.  `since_s` is what a monotonic second lacks to be a Unix second."""
    kept, told = remembered.kept, remembered.told
    user = kept.user and {"id": kept.user.id, "digest": kept.user.digest, "at": kept.user.at + since_s}
    claims = [
        {
            "word": claim.word.value,
            "source": claim.source.value,
            "at": claim.at + since_s,
            "message": claim.message,
            "uri": claim.uri,
        }
        for claim in kept.claims
    ]
    words = told and {"word": told.word.value, "message": told.message, "uri": told.uri}
    record = {"turn": kept.turn, "user": user, "told": words, "claims": claims}
    replace_file(path, json.dumps(record).encode() + b"\n")


def read(path: Path, *, since_s: float) -> Remembered:
    """What `write` left; nothing remembered when there is no such file or nothing can be made of it."""
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(FILE_MAX_BYTES))
        user, told = record["user"], record["told"]
        return Remembered(
            Kept(
                int(record["turn"]),
                user and UserMessage(int(user["id"]), int(user["digest"]), float(user["at"]) - since_s),
                tuple(_claim(entry, since_s) for entry in record["claims"]),
            ),
            told and Told(TaskWord(told["word"]), str(told["message"]), str(told["uri"])),
        )
    except FileNotFoundError:
        return Remembered()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.get("stability").warning("task.forgotten", file=str(path), reason=str(error))
        return Remembered()


def _claim(entry: Any, since_s: float) -> Claim:  # noqa: ANN401 - JSON
    word = TaskWord(entry["word"])
    if word is TaskWord.NONE:
        raise ValueError("a claim says nothing")
    at = float(entry["at"]) - since_s
    return Claim(word, Source(entry["source"]), at, str(entry["message"]), str(entry["uri"]))
