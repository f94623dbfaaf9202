"""The state of the task on disk, so that it survives a restart of agentd: one small file, replaced atomically.

    {"turn": 3, "user": {"id": 4, "digest": 81, "at": "…"}, "told": {"word": "idle", "message": "", "uri": ""},
     "claims": [{"word": "complete", "source": "report", "at": "…", "message": "done", "uri": ""}]}

`claims` are the reports of the turn, `told` is what coderd accepted last. Times are Unix seconds in the file and
monotonic seconds in memory, because a monotonic clock starts anew with the machine.
"""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentd import log
from agentd.durable import replace_file
from agentd.stability.status_report import Source, StatusReport, TaskState
from agentd.stability.turn_reports import TaskRecord, UserMessage

NAME: Final = "task.json"
FILE_MAX_BYTES: Final = 1 << 20


class TaskFileContent(NamedTuple):
    """The record of the task, and the report that coderd accepted last (its `source` and `at` are not kept)."""

    record: TaskRecord = TaskRecord()
    accepted: StatusReport | None = None


def write(path: Path, content: TaskFileContent, *, monotonic_to_unix_s: float) -> None:
    """Replace the file; blocks on the disk. Raises `OSError`."""
    record, accepted = content.record, content.accepted
    user = record.user and {
        "id": record.user.id,
        "digest": record.user.digest,
        "at": record.user.at + monotonic_to_unix_s,
    }
    reports = [
        {
            "word": report.state.value,
            "source": report.source.value,
            "at": report.at + monotonic_to_unix_s,
            "message": report.message,
            "uri": report.uri,
        }
        for report in record.reports
    ]
    told = accepted and {"word": accepted.state.value, "message": accepted.message, "uri": accepted.uri}
    fields = {"turn": record.turn, "user": user, "told": told, "claims": reports}
    replace_file(path, json.dumps(fields).encode() + b"\n")


def read(path: Path, *, monotonic_to_unix_s: float) -> TaskFileContent:
    """What `write` stored; empty if there is no such file, or if it is damaged (logged)."""
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(FILE_MAX_BYTES))
        user, told = fields["user"], fields["told"]
        return TaskFileContent(
            TaskRecord(
                int(fields["turn"]),
                user
                and UserMessage(
                    int(user["id"]), int(user["digest"]), float(user["at"]) - monotonic_to_unix_s
                ),
                tuple(_report(entry, monotonic_to_unix_s) for entry in fields["claims"]),
            ),
            told
            and StatusReport(TaskState(told["word"]), message=str(told["message"]), uri=str(told["uri"])),
        )
    except FileNotFoundError:
        return TaskFileContent()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        log.get("stability").warning("task.forgotten", file=str(path), reason=str(exc))
        return TaskFileContent()


def _report(entry: Any, monotonic_to_unix_s: float) -> StatusReport:  # noqa: ANN401 - JSON
    state = TaskState(entry["word"])
    if state is TaskState.NONE:
        raise ValueError("a report has no state")
    at = float(entry["at"]) - monotonic_to_unix_s
    return StatusReport(state, Source(entry["source"]), at, str(entry["message"]), str(entry["uri"]))
