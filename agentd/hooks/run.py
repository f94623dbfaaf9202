"""Runs one hook or other program once, in its own session, without input, with bounded output.

agentd ends the hook's whole session (SIGTERM, grace, SIGKILL) if the hook fails, times out or is interrupted,
so that the next attempt never runs beside processes of this one. A hook that *succeeds* may leave a process,
because a hook may start a service. Such a process should redirect its output: agentd reads the pipe for
`DRAIN_S` after the hook's exit and then closes its end.
"""

import asyncio
import contextlib
import enum
import os
import signal
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from structlog.typing import FilteringBoundLogger

from agentd import log
from agentd.clock import Clock
from agentd.errors import AgentdError
from agentd.hooks.processes import RUN_ID, RunMarks, end_run, kill_now
from agentd.masking import MaskedOutput
from agentd.proc import ProcessIdentity, identify
from agentd.programs import program_environment, untrusted_reason

TAIL_BYTES: Final = 8 * 1024
LOGGED_LINES: Final = 200
LOGGED_CHARS: Final = 500
DRAIN_S: Final = 2.0


class HookSurvivedError(AgentdError):
    """A process of the hook survived SIGKILL, stuck in the kernel. No other run may start beside it."""


class HookOutcome(enum.StrEnum):
    """How a run ended; a metric label. `HookRun` returns all but the last, which its callers set."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    NOT_STARTED = "not_started"
    REFUSED = "refused"
    """The hook was not run, because another user could have written it."""
    INTERRUPTED = "interrupted"
    """agentd ended before the hook."""


class HookResult(NamedTuple):
    """The end of a run.

    `exit_code` is negative for a signal, None if there is none. `why` is "" for a success. `tail` is the last
    `TAIL_BYTES` of output, with secrets redacted.
    """

    outcome: HookOutcome
    exit_code: int | None
    why: str
    tail: str = ""

    @property
    def succeeded(self) -> bool:
        return self.outcome is HookOutcome.SUCCEEDED

    def log(self, to: FilteringBoundLogger, **facts: object) -> None:
        if self.succeeded:
            to.info("hook.succeeded", **facts)
        else:
            to.warning(f"hook.{self.outcome}", **facts, reason=self.why)


class HookPolicy(NamedTuple):
    """How hooks run; times in seconds. `environ` is the daemon's own environment, `redact_env` names secrets in it.

    `grace_s` is the time between SIGTERM and SIGKILL after a failure, `stop_grace_s` after a cancellation.
    """

    hooks_dir: Path
    state_dir: Path
    environ: Mapping[str, str]
    timeout_s: float = 300.0
    grace_s: float = 5.0
    stop_grace_s: float = 1.5
    pass_token: bool = False
    redact_env: Sequence[str] = ()

    def environment(self, *, hook: str, reason: str, workspace_id: str | None, run_id: str) -> dict[str, str]:
        """A hook's environment: the daemon's as `program_environment` leaves it, and `AGENTD_*`."""
        return {
            **program_environment(self.environ, redact=self.redact_env, pass_token=self.pass_token),
            "AGENTD_HOOK": hook,
            "AGENTD_REASON": reason,
            "AGENTD_WORKSPACE_ID": workspace_id or "",
            "AGENTD_STATE_DIR": str(self.state_dir),
            RUN_ID: run_id,
        }


class HookRun:
    """One run of the executable `path` with environment `env`, which contains the id of the run.

    With `leaves_processes` a run that succeeds may leave processes. `logs_output`: the output's first lines are logged.
    """

    def __init__(
        self,
        path: Path,
        *arguments: str,
        policy: HookPolicy,
        env: Mapping[str, str],
        clock: Clock,
        leaves_processes: bool = True,
        logs_output: bool = True,
    ) -> None:
        self._path = path
        self._arguments = arguments
        self._policy = policy
        self._env = env
        self._clock = clock
        self._leaves_processes = leaves_processes
        self._output = _Output(path.name, is_logged=logs_output)

    @property
    def tail(self) -> str:
        """As in `HookResult`, for the output so far."""
        return self._output.tail()

    async def execute(
        self, on_spawn: Callable[[ProcessIdentity], Awaitable[None]] | None = None
    ) -> HookResult:
        """Run the hook to its end. `on_spawn` is awaited as soon as the process exists.

        When cancelled, ends the session within about `stop_grace_s` and passes the cancellation on. Raises
        `HookSurvivedError` if a failed or timed-out run cannot be ended.
        """
        if reason := await asyncio.to_thread(untrusted_reason, self._path):
            return HookResult(HookOutcome.REFUSED, None, f"refused: {reason}")
        marks = await asyncio.to_thread(RunMarks, self._env[RUN_ID])
        with contextlib.closing(self._output):
            out = self._output.open()
            try:
                child = await asyncio.create_subprocess_exec(
                    self._path,
                    *self._arguments,
                    stdin=DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=self._env,
                    start_new_session=True,
                    preexec_fn=marks.apply,
                )
            except OSError as exc:
                # Text file busy, no such interpreter, no permission, no memory: the hook has failed.
                return HookResult(HookOutcome.NOT_STARTED, None, f"cannot be started: {exc.strerror or exc}")
            except asyncio.CancelledError:
                # asyncio has ended the process, if it had started it, but not what the process has detached.
                await self._end_for_stop(None, None)
                raise
            finally:
                os.close(out)
            leader = identify(child.pid)
            try:
                if on_spawn is not None and leader is not None:
                    await on_spawn(leader)
                exit_code = await self._exit_code(child, self._policy.timeout_s)
                if exit_code != 0 or not self._leaves_processes:
                    await self._end(child, leader, self._policy.grace_s)
                await self._clock.wait_event(self._output.ended, DRAIN_S)
                await asyncio.to_thread(marks.remove_empty_groups)
            except asyncio.CancelledError:
                await self._end_for_stop(child, leader)
                raise
        return self._result(exit_code)

    async def _exit_code(self, child: asyncio.subprocess.Process, timeout_s: float) -> int | None:
        """None if the process runs longer than `timeout_s`."""
        try:
            async with self._clock.timeout(timeout_s):
                return await child.wait()
        except TimeoutError:
            return None

    async def _end(
        self, child: asyncio.subprocess.Process | None, leader: ProcessIdentity | None, grace_s: float
    ) -> None:
        run_id = self._env[RUN_ID]
        if not await end_run(run_id, leader, clock=self._clock, grace_s=grace_s, leader_was_child=True):
            raise HookSurvivedError(f"hook {self._path.name} (run {run_id}) survived SIGKILL")
        if child is not None:
            await self._exit_code(child, DRAIN_S)

    async def _end_for_stop(
        self, child: asyncio.subprocess.Process | None, leader: ProcessIdentity | None
    ) -> None:
        try:
            await self._end(child, leader, self._policy.stop_grace_s)
        except HookSurvivedError as exc:
            log.get("hooks").error("hook.survived_kill", error=str(exc))
        except asyncio.CancelledError:
            # A second signal: no grace. Wait for the exit, or asyncio reports it after the loop has closed.
            kill_now(self._env[RUN_ID], leader)
            if child is not None:
                await self._exit_code(child, DRAIN_S)
            raise

    def _result(self, exit_code: int | None) -> HookResult:
        if exit_code == 0:
            return HookResult(HookOutcome.SUCCEEDED, 0, "", self.tail)
        if exit_code is None:
            outcome, why = HookOutcome.TIMED_OUT, f"timed out after {self._policy.timeout_s:g} s"
        elif exit_code > 0:
            outcome, why = HookOutcome.FAILED, f"exit code {exit_code}"
        else:
            outcome, why = HookOutcome.FAILED, f"killed by {_signal_name(-exit_code)}"
        return HookResult(outcome, exit_code, why, self.tail)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Output:
    """Reads a pipe without blocking: keeps the tail, logs the first lines, drops the rest."""

    def __init__(self, hook: str, *, is_logged: bool) -> None:
        self._hook = hook
        self._fd: int | None = None
        self._output = MaskedOutput(TAIL_BYTES)
        self._line = ""
        self._lines = 0 if is_logged else LOGGED_LINES + 1
        self._log = log.get("hooks")
        self.ended = asyncio.Event()

    def open(self) -> int:
        """Create the pipe and read from it. Returns its other end, which the caller closes."""
        self._fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write_fd, True)  # programs expect their standard output to block
        asyncio.get_running_loop().add_reader(self._fd, self._read, self._fd)
        return write_fd

    def close(self) -> None:
        """Stop reading and close this end of the pipe. Idempotent."""
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None
            self.ended.set()
            self._log_lines(self._output.finish() + "\n")

    def tail(self) -> str:
        return self._output.tail()

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, 65_536)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        self._log_lines(self._output.feed(data))

    def _log_lines(self, text: str) -> None:
        if self._lines > LOGGED_LINES:
            return
        *lines, rest = (self._line + text).split("\n")
        self._line = rest[:LOGGED_CHARS]
        for line in filter(None, lines):
            self._lines += 1
            if self._lines > LOGGED_LINES:
                self._log.info("hook.output_no_longer_logged", hook=self._hook, after_lines=LOGGED_LINES)
                return
            self._log.info("hook.output", hook=self._hook, line=line[:LOGGED_CHARS])
