"""The state of the task on disk, so that it survives a restart of agentd: one small file, replaced atomically.

    {"turn": 3, "user": {"id": 4, "digest": 81, "at": "…"}, "told": {"word": "idle", "message": "", "uri": ""},
     "claims": [{"word": "complete", "source": "report", "at": "…", "message": "done", "uri": ""}]}

`claims` are the reports of the turn, `told` is what coderd accepted last. Times are Unix seconds in the file and
monotonic seconds in memory, because a monotonic clock starts anew with the machine.
"""

import json
from pathlib import Path
from typing import Any, Final

from agentd import log, strict_json
from agentd.durable import ForeignFileError, read_file, replace_file, set_aside
from agentd.masking import masked
from agentd.stability.status_report import Source, StatusReport, TaskState
from agentd.stability.turn_reports import NEW_TASK, TaskRecord, UserMessage

NAME: Final = "task.json"
FILE_MAX_BYTES: Final = 1 << 20


def write(
    path: Path, record: TaskRecord, accepted: StatusReport | None, *, monotonic_to_unix_s: float
) -> None:
    """Replace the file; blocks on the disk. `accepted` is what coderd accepted last. Raises `OSError`."""
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
    fields = {
        "turn": record.turn,
        "user": record.user and {**record.user._asdict(), "at": record.user.at + monotonic_to_unix_s},
        "told": accepted and {"word": accepted.state.value, "message": accepted.message, "uri": accepted.uri},
        "claims": reports,
    }
    replace_file(path, json.dumps(fields).encode() + b"\n")


def read(path: Path, *, monotonic_to_unix_s: float) -> tuple[TaskRecord, StatusReport | None]:
    """The record and the accepted report that `write` stored; empty if there is no file.

    A damaged file is set aside and logged. The accepted report has no `source` and `at`.
    """
    try:
        fields = strict_json.loads(read_file(path, FILE_MAX_BYTES))
        user, told = fields["user"], fields["told"]
        record = TaskRecord(
            int(fields["turn"]),
            user
            and UserMessage(int(user["id"]), int(user["digest"]), float(user["at"]) - monotonic_to_unix_s),
            tuple(_report(entry, monotonic_to_unix_s) for entry in fields["claims"]),
        )
        return record, told and StatusReport(
            TaskState(told["word"]), message=_text(told["message"]), uri=_text(told["uri"])
        )
    except FileNotFoundError:
        pass
    except (ForeignFileError, ValueError, TypeError, KeyError, AttributeError) as exc:
        _forget(path, f"{type(exc).__name__}: {exc}")
    except OSError as exc:
        log.get("stability").warning("task.forgotten", file=str(path), reason=exc.strerror)
    return NEW_TASK, None


def _forget(path: Path, reason: str) -> None:
    kept = path
    try:
        kept = set_aside(path)
    except OSError as exc:
        reason = f"{reason}; cannot set it aside: {exc.strerror}"
    log.get("stability").warning("task.forgotten", file=str(kept), reason=reason)


def _text(value: object) -> str:
    text = str(value)
    text.encode()  # a lone surrogate could not be sent to coderd
    return masked(text)  # a file of an earlier release is not masked


def _report(entry: Any, monotonic_to_unix_s: float) -> StatusReport:  # noqa: ANN401 - JSON
    state = TaskState(entry["word"])
    if state is TaskState.NONE:
        raise ValueError("a report has no state")
    at = float(entry["at"]) - monotonic_to_unix_s
    return StatusReport(state, Source(entry["source"]), at, _text(entry["message"]), _text(entry["uri"]))
