"""Run one hook, once: own session, no input, output kept and logged within bounds, and an end that leaves nothing over.

The hook's whole session is ended (TERM, grace, KILL) when it fails, times out or is interrupted, so that the next
attempt never runs beside a remnant of this one. A hook that *succeeds* may leave a process behind: starting a service
is a fair thing for it to do. Such a process should redirect its output; agentd reads for a moment after the hook's exit
and then closes its end of the pipe.
"""

import asyncio
import contextlib
import enum
import math
import os
import signal
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from agentd import log
from agentd.clock import Clock
from agentd.errors import AgentdError
from agentd.hooks.processes import RUN_ID, end_run, kill_now
from agentd.proc import ProcessIdentity, identify

T = TypeVar("T")

TAIL_BYTES = 8 * 1024
LOGGED_LINES = 200
LOGGED_CHARS = 500
DRAIN_S = 2.0

# The daemon's own secrets and its line to systemd. A hook that wants the token is given it by claims.pass_token.
_TOKENS = ("CODER_AGENT_TOKEN", "AGENTD_CODER_TOKEN")
_OURS_ALONE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


class HookSurvivedError(AgentdError):
    """A process of the hook outlives SIGKILL (stuck in the kernel). Nothing may be started beside it."""


class Outcome(enum.StrEnum):
    """How a run ended, in the word of the metric. A run of ours ends as one of the first four."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    NOT_STARTED = "not_started"
    REFUSED = "refused"
    """Never run: another user could have written it."""
    INTERRUPTED = "interrupted"
    """agentd ended first."""


class Ended(NamedTuple):
    """How a run ended: `exit_code` is negative for a signal and None when it never started, `why` "" for a success."""

    outcome: Outcome
    exit_code: int | None
    why: str

    @property
    def succeeded(self) -> bool:
        return self.outcome is Outcome.SUCCEEDED


def environment(
    base: Mapping[str, str],
    *,
    hook: str,
    reason: str,
    workspace_id: str | None,
    state_dir: Path,
    run_id: str,
    pass_token: bool = False,
) -> dict[str, str]:
    """What every hook is told, on top of the daemon's own environment `base`."""
    kept = {
        name: value
        for name, value in base.items()
        if name not in _OURS_ALONE and (pass_token or not name.startswith(_TOKENS))
    }
    return {
        **kept,
        "AGENTD_HOOK": hook,
        "AGENTD_REASON": reason,
        "AGENTD_WORKSPACE_ID": workspace_id or "",
        "AGENTD_STATE_DIR": str(state_dir),
        RUN_ID: run_id,
    }


class HookRun:
    """One run of the executable `path` with environment `env`, which carries `run_id`.

    `timeout_s` is finite; `grace_s` lies between TERM and KILL after a failure, `stop_grace_s` when we are cancelled.
    """

    def __init__(
        self,
        path: Path,
        *,
        env: Mapping[str, str],
        run_id: str,
        timeout_s: float,
        grace_s: float,
        stop_grace_s: float,
        clock: Clock,
    ) -> None:
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"a hook's timeout must be finite, not {timeout_s}")
        self._path = path
        self._env = dict(env)
        self._run_id = run_id
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._stop_grace_s = stop_grace_s
        self._clock = clock
        self._output = _Output(path.name)

    @property
    def tail(self) -> str:
        """The last `TAIL_BYTES` of output so far, secrets masked."""
        return self._output.tail()

    async def execute(self, on_spawn: Callable[[ProcessIdentity | None], Awaitable[None]]) -> Ended:
        """Run it to its end. `on_spawn` is awaited as soon as the process is there.

        Cancelled: ends the session within `stop_grace_s` and a moment, and passes the cancellation on. Raises
        `HookSurvivedError` when a failed or timed-out run cannot be ended.
        """
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write_fd, True)  # the hook's end blocks, as it expects of a pipe
        self._output.attach(read_fd)
        try:
            child = await asyncio.create_subprocess_exec(
                self._path,
                stdin=DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                env=self._env,
                start_new_session=True,
            )
        except OSError as exc:
            # Text file busy, no such interpreter, no permission, no memory: whatever it is, it is this hook's failure.
            self._output.detach()
            return Ended(Outcome.NOT_STARTED, None, f"cannot be started: {exc.strerror or exc}")
        except BaseException:
            self._output.detach()
            raise
        finally:
            os.close(write_fd)
        leader = identify(child.pid)
        try:
            await on_spawn(leader)
            exit_code = await self._exit_within_timeout(child)
            if exit_code != 0:
                await self._end(child, leader, self._grace_s)
            await _within(self._output.ended.wait(), DRAIN_S, self._clock)
        except asyncio.CancelledError:
            await self._end_for_stop(child, leader)
            raise
        finally:
            self._output.detach()
        return _ended(exit_code, self._timeout_s)

    async def _exit_within_timeout(self, child: asyncio.subprocess.Process) -> int | None:
        return await _within(child.wait(), self._timeout_s, self._clock)

    async def _end(
        self, child: asyncio.subprocess.Process, leader: ProcessIdentity | None, grace_s: float
    ) -> None:
        if not await end_run(self._run_id, leader, clock=self._clock, grace_s=grace_s, leader_was_ours=True):
            raise HookSurvivedError(f"hook {self._path.name} (pid {child.pid}) survived SIGKILL")
        await _within(child.wait(), DRAIN_S, self._clock)

    async def _end_for_stop(self, child: asyncio.subprocess.Process, leader: ProcessIdentity | None) -> None:
        try:
            await self._end(child, leader, self._stop_grace_s)
        except HookSurvivedError as exc:
            log.get("hooks").error("hook.survived_kill", error=str(exc))
        except asyncio.CancelledError:
            # A second signal: no grace any more, but nothing is left behind knowingly either. Its end is waited for, or
            # it would be told to a loop that has closed.
            kill_now(self._run_id, leader)
            await _within(child.wait(), DRAIN_S, self._clock)
            raise


async def _within(what: Awaitable[T], seconds: float, clock: Clock) -> T | None:
    """The result of `what`, or None (and `what` cancelled) when it takes longer than `seconds` of our clock."""
    awaited, timer = asyncio.ensure_future(what), asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({awaited, timer}, return_when=asyncio.FIRST_COMPLETED)
        return awaited.result() if awaited.done() else None
    finally:
        for task in (awaited, timer):
            task.cancel()


def _ended(exit_code: int | None, timeout_s: float) -> Ended:
    if exit_code is None:
        return Ended(Outcome.TIMED_OUT, None, f"timed out after {timeout_s:g} s")
    if exit_code == 0:
        return Ended(Outcome.SUCCEEDED, 0, "")
    if exit_code > 0:
        return Ended(Outcome.FAILED, exit_code, f"exit code {exit_code}")
    with contextlib.suppress(ValueError):
        return Ended(Outcome.FAILED, exit_code, f"killed by {signal.Signals(-exit_code).name}")
    return Ended(Outcome.FAILED, exit_code, f"killed by signal {-exit_code}")


class _Output:
    """Reads a pipe without ever blocking: keeps the tail, logs the first lines, drops the rest."""

    def __init__(self, hook: str) -> None:
        self._hook = hook
        self._fd: int | None = None
        self._tail = bytearray()
        self._line = bytearray()
        self._lines = 0
        self._log = log.get("hooks")
        self.ended = asyncio.Event()

    def attach(self, fd: int) -> None:
        self._fd = fd
        asyncio.get_running_loop().add_reader(fd, self._read)

    def detach(self) -> None:
        """Stop reading and close our end; harmless when done twice."""
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None
            self.ended.set()
            self._log_lines(b"\n")

    def tail(self) -> str:
        text = bytes(self._tail[-TAIL_BYTES:])
        if len(self._tail) > TAIL_BYTES:
            # The cut may have fallen inside a character; its continuation bytes are 10xxxxxx.
            text = text.lstrip(bytes(range(0x80, 0xC0)))
        return log.masked(text.decode("utf-8", "replace"))

    def _read(self) -> None:
        if self._fd is None:
            return
        try:
            data = os.read(self._fd, 65_536)
        except BlockingIOError:
            return
        if not data:
            self.detach()
            return
        self._tail += data
        if len(self._tail) > 4 * TAIL_BYTES:
            del self._tail[: -TAIL_BYTES - 1]
        self._log_lines(data)

    def _log_lines(self, data: bytes) -> None:
        if self._lines > LOGGED_LINES:
            return
        *lines, rest = (bytes(self._line) + data).split(b"\n")
        self._line = bytearray(rest[: 4 * LOGGED_CHARS])
        for line in filter(None, lines):
            self._lines += 1
            if self._lines > LOGGED_LINES:
                self._log.info("hook.output_no_longer_logged", hook=self._hook, after_lines=LOGGED_LINES)
                return
            self._log.info(
                "hook.output", hook=self._hook, line=line.decode("utf-8", "replace")[:LOGGED_CHARS]
            )
