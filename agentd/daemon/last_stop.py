"""Record on disk whether the previous run had the time to stop: a small file, written at three moments.

    {"state": "stopping", "started_at": …, "reason": "SIGTERM", "began_at": …, "budget_s": 8.0, "outcome": ""}

A run that left `stopped` ended in order. One that left `stopping` was killed during its shutdown: the time between
SIGTERM and SIGKILL is too short. One that left `running` got no signal: the machine lost power, the kernel was out of
memory, or SIGTERM does not reach agentd.
"""

import asyncio
import enum
import json
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentd import log, strict_json
from agentd.clock import Clock, rfc3339
from agentd.durable import read_file, replace_file, set_aside
from agentd.snapshots.receipts import Receipt, SnapshotOutcome
from agentd.worker_thread import WorkerThread

NAME: Final = "last-stop.json"
FILE_MAX_BYTES: Final = 4096


class RunState(enum.StrEnum):
    """How far a run has come."""

    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


_VERDICTS: Final = {RunState.RUNNING: "killed", RunState.STOPPING: "cut_off", RunState.STOPPED: "in_order"}
_HINTS: Final = {
    RunState.STOPPING: "increase the time between SIGTERM and SIGKILL, or lower shutdown.budget_s; `agentd drill` measures a stop",
    RunState.RUNNING: "a crash or power cut, or SIGTERM does not reach agentd: run `agentd stop` before the container ends",
}


class Run(NamedTuple):
    """One run of the daemon. Times are RFC 3339, "" until they are known."""

    state: RunState
    started_at: str = ""
    reason: str = ""
    began_at: str = ""
    ended_at: str = ""
    budget_s: float = 0.0
    outcome: str = ""

    @property
    def verdict(self) -> str:
        """How an earlier run ended: `in_order`, `cut_off` or `killed`."""
        return _VERDICTS[self.state]

    def as_json(self) -> dict[str, Any]:
        """`last_stop` of `/v1/status`."""
        fields = self._asdict()
        del fields["state"]
        return {"ended": self.verdict, **fields}


class LastStop:
    """The record in one state directory, whose lock the caller holds. `previous` is the run before, None for the first.

    Each method writes in the thread `disk`, in the order of the calls. A failed write is logged and not raised: it costs the
    next start its warning and nothing else.
    """

    def __init__(self, directory: Path, clock: Clock, disk: WorkerThread) -> None:
        self._path = directory / NAME
        self._clock = clock
        self._disk = disk
        self._run = Run(RunState.RUNNING)
        self.previous = read(directory)
        if self.previous is None and os.path.lexists(self._path):
            self._set_damaged_aside()

    async def running(self, *, timeout_s: float | None = None) -> None:
        """This run has begun. Waits at most `timeout_s` for the disk."""
        await self._write(Run(RunState.RUNNING, started_at=self._now()), timeout_s)

    async def stopping(self, reason: str, budget_s: float) -> None:
        """The shutdown has begun."""
        run = self._run._replace(state=RunState.STOPPING, began_at=self._now())
        await self._write(run._replace(reason=reason, budget_s=budget_s))

    async def stopped(self, outcome: str, *, timeout_s: float) -> None:
        """The shutdown is over. Waits at most `timeout_s` for the disk."""
        run = self._run._replace(state=RunState.STOPPED, ended_at=self._now(), outcome=outcome)
        await self._write(run, timeout_s)

    def warn_if_killed(self, captured: Receipt | None = None) -> None:
        """Log a warning if the run before did not end in order. `captured` is the receipt of the newest snapshot."""
        before = self.previous
        if before is None or before.state is RunState.STOPPED:
            return
        log.get("daemon").warning(
            "agentd.last_run_not_stopped",
            **before.as_json(),
            kept=_kept(captured),
            hint=_HINTS[before.state],
        )

    def _set_damaged_aside(self) -> None:
        try:
            kept = set_aside(self._path)
        except OSError as exc:
            log.get("daemon").warning("last_stop.damaged", file=str(self._path), reason=exc.strerror)
        else:
            log.get("daemon").warning("last_stop.damaged", file=str(kept), reason="not a record of agentd")

    async def _write(self, run: Run, timeout_s: float | None = None) -> None:
        self._run = run
        data = json.dumps(run._asdict()).encode() + b"\n"
        try:
            async with asyncio.timeout(timeout_s):
                await self._disk.run(lambda: replace_file(self._path, data))
        except OSError as exc:
            reason = exc.strerror or str(exc) or f"the disk did not answer in {timeout_s:.1f} s"
            log.get("daemon").warning("last_stop.not_kept", reason=reason)

    def _now(self) -> str:
        return rfc3339(self._clock.wall())


def _kept(captured: Receipt | None) -> str:
    """What is left of the conversation of a run that did not end in order."""
    if captured is None or not captured.messages:
        return "nothing: no message was captured"
    if captured.outcome is SnapshotOutcome.PENDING:
        return "captured snapshots are in the spool and are delivered now"
    return f"captured snapshots are in the spool; the newest: {captured.outcome}"


def read(directory: Path) -> Run | None:
    """The record in `directory`; None if there is none or it is damaged. Changes nothing."""
    try:
        fields = strict_json.loads(read_file(directory / NAME, FILE_MAX_BYTES))
        run = Run(**{**fields, "state": RunState(fields["state"]), "budget_s": float(fields["budget_s"])})
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
    texts = (run.started_at, run.reason, run.began_at, run.ended_at, run.outcome)
    return run if all(isinstance(text, str) for text in texts) else None
