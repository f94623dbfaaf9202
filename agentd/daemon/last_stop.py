"""Whether the run before this one was given the time to stop: a small durable file, written at three moments.

    {"state": "stopping", "started_at": …, "reason": "SIGTERM", "began_at": …, "budget_s": 8.0, "outcome": ""}

A run that left `stopped` ended in order. One that left `stopping` was killed in the middle of its shutdown: the grace
it is given is too short. One that left `running` was never asked: the machine lost power, the kernel was out of memory,
or the TERM of whoever ends the container does not reach agentd.
"""

import enum
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentd import log
from agentd.clock import Clock, rfc3339
from agentd.durable import replace_file

NAME: Final = "last-stop.json"
FILE_MAX_BYTES: Final = 4096


class RunState(enum.StrEnum):
    """How far a run has come, or had when it left the file."""

    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Run(NamedTuple):
    """One run of the daemon. Times are RFC 3339, "" while they have not come."""

    state: RunState
    started_at: str = ""
    reason: str = ""
    began_at: str = ""
    ended_at: str = ""
    budget_s: float = 0.0
    outcome: str = ""

    @property
    def verdict(self) -> str:
        """`in_order`, `cut_off` or `killed`, of a run that is over."""
        return {RunState.RUNNING: "killed", RunState.STOPPING: "cut_off", RunState.STOPPED: "in_order"}[
            self.state
        ]

    def as_json(self) -> dict[str, Any]:
        """`last_stop` of `/v1/status`."""
        fields = self._asdict()
        del fields["state"]
        return {"ended": self.verdict, **fields}


class LastStop:
    """The file of one state directory, whose lock the caller holds. `previous` is the run before, None for the first.

    The writing methods block for two syncs. A disk that does not take them costs the next start its warning and
    nothing else, so they log and never raise.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._path = directory / NAME
        self._clock = clock
        self.previous = read(directory)
        self._run = Run(RunState.RUNNING)

    def running(self) -> None:
        """This run has begun; until `stopped`, its end would not be in order."""
        self._write(Run(RunState.RUNNING, started_at=self._now()))

    def stopping(self, reason: str, budget_s: float) -> None:
        self._write(
            self._run._replace(
                state=RunState.STOPPING, reason=reason, began_at=self._now(), budget_s=budget_s
            )
        )

    def stopped(self, outcome: str) -> None:
        self._write(self._run._replace(state=RunState.STOPPED, ended_at=self._now(), outcome=outcome))

    def complain(self) -> None:
        """Say it when the run before was not given its time."""
        before = self.previous
        if before is None or before.state is RunState.STOPPED:
            return
        hints = {
            "cut_off": "raise the grace of whoever stops agentd or lower shutdown.budget_s; `agentd drill` measures a stop",
            "killed": "a crash, a power cut, or TERM does not reach agentd; have `agentd stop` run before the end",
        }
        log.get("daemon").warning(
            "agentd.last_stop_cut_off",
            **before.as_json(),
            kept="what was captured is in the spool and is delivered now",
            hint=hints[before.verdict],
        )

    def _write(self, run: Run) -> None:
        self._run = run
        try:
            replace_file(self._path, json.dumps(run._asdict()).encode() + b"\n")
        except OSError as error:
            log.get("daemon").warning("last_stop.not_kept", reason=error.strerror or str(error))

    def _now(self) -> str:
        return rfc3339(self._clock.wall())


def read(directory: Path) -> Run | None:
    """What the last run in `directory` left; None when there was none or nothing can be made of it."""
    try:
        with (directory / NAME).open("rb") as file:
            fields = json.loads(file.read(FILE_MAX_BYTES))
        return Run(**{**fields, "state": RunState(fields["state"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
