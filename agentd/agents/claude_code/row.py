"""One row of Claude Code's registry of live processes, and what it says together with the transcript. Pure.

A row is `sessions/PID.json`, written at transitions only. `status` is missing before 2.1.181 and for the first moment of
a process. It came 62 ms before the terminal showed idle, and the transcript's end of the turn 4 ms before (2.1.330).
"""

import json
import re
from typing import Final, NamedTuple

from agentd.agents.agent import Activity, Observation, Strength
from agentd.agents.claude_code.transcript import Turn
from agentd.masking import excerpt

LAST_UNDERSTOOD: Final = "2.1.330"
"""The newest version whose files were tried."""
TEXT_LAG_S: Final = 0.4
"""The end of the turn is in the transcript at most this long after the registry says idle (measured: 0.3 s)."""

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VERSION: Final = re.compile(r"[0-9A-Za-z.+-]{1,40}")
_DIALOG: Final = "dialog open"
_DETAIL_MAX: Final = 200
# Processes of the kind `bg` use the words in the second place.
_BUSY: Final = ("busy", "working")
_WAITING: Final = ("waiting", "blocked")
_IDLE: Final = ("idle", "done", "failed", "stopped")
_SHELL: Final = "shell"


class RowError(ValueError):
    """The text is not a row of the registry."""


class Row(NamedTuple):
    """Times are Unix seconds, 0 where they are not told. `start_ticks`: field 22 of `/proc/PID/stat`."""

    pid: int
    start_ticks: int
    session: str
    directory: str = ""
    version: str = ""
    status: str = ""
    waiting_for: str = ""
    status_at: float = 0.0
    started_at: float = 0.0


def parse_row(text: str | bytes) -> Row:
    """Raises `RowError`. The session id is a UUID, so that it can be part of a path."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise RowError("is not JSON") from None
    if not isinstance(values, dict):
        raise RowError("is not a JSON object")
    pid, ticks, session = (values.get(name) for name in ("pid", "procStart", "sessionId"))
    if not isinstance(pid, int) or isinstance(pid, bool):
        raise RowError("has no pid")
    if not isinstance(ticks, str | int) or not re.fullmatch(r"[0-9]{1,18}", str(ticks)):
        raise RowError("has no procStart, so its process cannot be identified")
    if not isinstance(session, str) or not _UUID.fullmatch(session):
        raise RowError("has no sessionId that is a UUID")
    version = _shown(values.get("version"))
    return Row(
        pid,
        int(ticks),
        session,
        directory=_shown(values.get("cwd"), 4096),
        version=version if _VERSION.fullmatch(version) else "",
        status=_shown(values.get("status")),
        waiting_for=_shown(values.get("waitingFor")),
        status_at=_seconds(values.get("statusUpdatedAt")),
        started_at=_seconds(values.get("startedAt")),
    )


def observation_of(row: Row, turn: Turn, *, now: float) -> Observation:
    """What the session does, by its row and the last turn of its transcript. `now`: Unix seconds."""
    # A turn of an earlier process ended with that process: a resumed session has it in its transcript.
    is_open = turn.is_open and turn.changed_at >= row.started_at
    if row.status in _BUSY:
        return _busy(row, turn)
    if row.status in _WAITING and (row.waiting_for != _DIALOG or (is_open and turn.by_user)):
        return Observation(Activity.WAITING, Strength.TOLD, _question(row, turn))
    if row.status in _WAITING and turn.background and turn.changed_at >= row.started_at:
        return Observation(Activity.BUSY, Strength.RECORDED, "a background agent runs")
    if row.status in _WAITING:
        return Observation(Activity.IDLE, Strength.TOLD, "no turn is open; a dialog is open")
    if row.status == _SHELL:
        return Observation(
            Activity.IDLE, Strength.TOLD, "the turn is over; a shell command runs in the background"
        )
    if row.status in _IDLE:
        if is_open and 0 <= now - row.status_at < TEXT_LAG_S:
            return Observation(Activity.BUSY, Strength.RECORDED, "the answer is being written")
        return Observation(Activity.IDLE, Strength.TOLD, f"the registry says {row.status}")
    return _by_transcript(turn, is_open=is_open, is_current=turn.changed_at >= row.started_at)


def _busy(row: Row, turn: Turn) -> Observation:
    is_stale = (
        turn.end == "turn_duration" and not turn.background and 0 < row.status_at < turn.changed_at
    )  # background agents and prompts that wait give a later row, or none of them runs
    if is_stale:
        evidence = f"the transcript has the end of the turn; the registry says {row.status} since before it"
        return Observation(Activity.IDLE, Strength.INFERRED, evidence)
    return Observation(Activity.BUSY, Strength.TOLD, f"the registry says {row.status}")


def _by_transcript(turn: Turn, *, is_open: bool, is_current: bool) -> Observation:
    if is_open:
        doing = f"{turn.tools[0].name or 'a tool'} was called" if turn.tools else "a turn is open"
        return Observation(Activity.BUSY, Strength.RECORDED, f"{doing}, says the transcript")
    if turn.background and is_current:
        return Observation(Activity.BUSY, Strength.RECORDED, "a background agent runs, says the transcript")
    if turn.end:
        return Observation(
            Activity.IDLE, Strength.RECORDED, f"the transcript has the end of the turn: {turn.end}"
        )
    return Observation(Activity.IDLE, Strength.INFERRED, "the transcript has no open turn")


def _question(row: Row, turn: Turn) -> str:
    """What the agent asks: the question where there is one, else the tool and its own description of the call."""
    waiting_for = row.waiting_for or row.status
    if not turn.tools:
        return waiting_for
    tool = turn.tools[0]
    name, detail = _shown(tool.name, 60), _shown(tool.detail)
    if waiting_for == "input needed" and detail:
        return detail
    return f"{waiting_for}: {name}" + (f" ({detail})" if detail else "")


def _shown(value: object, longest: int = _DETAIL_MAX) -> str:
    """A text of another program, on one line, masked and of limited length; "" for anything else."""
    if not isinstance(value, str):
        return ""
    return "".join(letter if letter.isprintable() else " " for letter in excerpt(value, longest))


def _seconds(value: object) -> float:
    """Unix milliseconds as seconds, 0 if it is not that."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 10**15:
        return 0.0
    return value / 1000
