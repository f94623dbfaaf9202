"""The real daemon as a child process.

The demo, the scenarios and the end-to-end tests use it as an operator does: through its environment, JSON
log, local API and exit code.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import aiohttp

from agentd.errors import AgentdError

LINE_MAX_BYTES: Final = 1 << 20
DEFAULT_WAIT_S: Final = 30.0
"""The limit for events that are expected at once. Only a daemon that hangs reaches it."""
LAST_LINES: Final = 12
"""Log lines in an error message."""

LogLine: TypeAlias = dict[str, Any]


class ChildError(AgentdError):
    """The daemon did not reach an expected state. The message ends with its last log lines."""


class DaemonProcess:
    """`agentd run` with a given environment, for `async with`, which kills a daemon that still runs.

    `state_dir` is kept, so a second DaemonProcess with the same environment is a restart.
    """

    def __init__(
        self, environ: Mapping[str, str], *, state_dir: Path, arguments: tuple[str, ...] = ()
    ) -> None:
        self.state_dir = state_dir
        self.socket = state_dir / "agentd.sock"
        self.lines: list[LogLine] = []
        self._arguments = arguments
        self._environ = {
            **inherited_environ(),
            "AGENTD_STATE_DIR": str(state_dir),
            "AGENTD_LOG_FORMAT": "json",
            # Not the agents of the user who runs this.
            "AGENTD_AGENT_SOURCES": "agentapi",
            **environ,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._grew = asyncio.Condition()

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the daemon was started and has not exited."""
        return self._process is not None and self._process.returncode is None

    async def ended(self) -> int | None:
        """The exit code, after the last log line was read; None while the daemon runs."""
        return None if self.running else await self.exit_code()

    async def start(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agentd",
            "run",
            *self._arguments,
            env=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_MAX_BYTES,
        )
        self._reader = asyncio.create_task(self._read_log(), name="daemon log")
        return self

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    async def log(
        self,
        event: str,
        *,
        where: Callable[[LogLine], bool] = lambda _line: True,
        after: int = 0,
        wait_s: float = DEFAULT_WAIT_S,
    ) -> LogLine:
        """Wait for a log line of `event` that satisfies `where`, from index `after` on. Returns the first.

        Raises `ChildError` when the daemon exits without such a line, and after `wait_s`.
        """

        def found() -> LogLine | None:
            return next(
                (line for line in self.lines[after:] if line.get("event") == event and where(line)), None
            )

        async def wait() -> LogLine:
            async with self._grew:
                while (line := found()) is None:
                    if self._reader is None or self._reader.done():
                        raise ChildError(f"agentd exited without logging {event!r}{self.last_lines()}")
                    await self._grew.wait()
                return line

        try:
            return await asyncio.wait_for(wait(), wait_s)
        except TimeoutError:
            raise ChildError(f"agentd did not log {event!r} within {wait_s:g} s{self.last_lines()}") from None

    async def ask(self, route: str, *, method: str = "GET", body: object = None) -> Any:  # noqa: ANN401 - JSON
        """Send one request to the local API and return the parsed JSON."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(self.socket))) as session,
            session.request(method, f"http://agentd{route}", json=body) as response,
        ):
            return await response.json()

    async def status_until(
        self, satisfied: Callable[[dict[str, Any]], bool], *, what: str, wait_s: float = DEFAULT_WAIT_S
    ) -> dict[str, Any]:
        """Read `/v1/status` until it is `satisfied`, and return it.

        Raises `ChildError` with `what` after `wait_s`.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        status: dict[str, Any] = {}
        while asyncio.get_running_loop().time() < deadline:
            try:
                status = await self.ask("/v1/status")
            except (aiohttp.ClientError, OSError):
                if self._running().returncode is not None:
                    break
            else:
                if satisfied(status):
                    return status
            await asyncio.sleep(0.05)
        raise ChildError(
            f"agentd's status did not show {what} within {wait_s:g} s: {status}{self.last_lines()}"
        )

    def signal(self, number: signal.Signals) -> None:
        self._running().send_signal(number)

    async def stop(self, *, wait_s: float = DEFAULT_WAIT_S) -> int:
        """Send SIGTERM and return the exit code."""
        self.signal(signal.SIGTERM)
        return await self.exit_code(wait_s=wait_s)

    async def kill(self) -> None:
        """Send SIGKILL, as the kernel does when memory is exhausted, and wait for the exit."""
        self.signal(signal.SIGKILL)
        await self.exit_code()

    async def exit_code(self, *, wait_s: float = DEFAULT_WAIT_S) -> int:
        try:
            code = await asyncio.wait_for(self._running().wait(), wait_s)
        except TimeoutError:
            raise ChildError(f"agentd did not exit within {wait_s:g} s{self.last_lines()}") from None
        if self._reader is not None:
            # A hook never inherits the daemon's stderr, so the log ends when the daemon exits.
            await self._reader
        return code

    def last_lines(self) -> str:
        """The last `LAST_LINES` log lines, each on a line of its own."""
        return "".join(f"\n    {json.dumps(line, ensure_ascii=False)}" for line in self.lines[-LAST_LINES:])

    def write_log(self, path: Path) -> None:
        """Write all log lines to `path`."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines)
        path.write_text(text, encoding="utf-8")

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ChildError("agentd was not started")
        return self._process

    async def _read_log(self) -> None:
        stderr = self._running().stderr
        if stderr is None:
            raise ChildError("agentd has no stderr")
        try:
            async for raw in stderr:
                text = raw.decode(errors="replace").rstrip("\n")
                try:
                    line = json.loads(text)
                except ValueError:
                    line = {"event": "text", "text": text}
                async with self._grew:
                    self.lines.append(line if isinstance(line, dict) else {"event": "text", "text": text})
                    self._grew.notify_all()
        finally:
            async with self._grew:
                # `log()` must see that no line follows, but this task is done only after its next step.
                self._reader = None
                self._grew.notify_all()


def inherited_environ() -> dict[str, str]:
    """This process's environment without the variables that configure agentd."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AGENTD_", "CODER_"))
        and name
        not in (
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "WATCHDOG_PID",
            "STATE_DIRECTORY",
            "RUNTIME_DIRECTORY",
            "CREDENTIALS_DIRECTORY",
        )
    }
