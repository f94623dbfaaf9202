"""The real daemon as a child process beside the simulated peers: started, watched, killed, asked.

The demo, the scenarios and the end-to-end tests drive agentd through this, exactly as an operator would: environment
in, JSON log lines, local API and exit codes out.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from agentd.errors import AgentdError

LINE_MAX_BYTES = 1 << 20
DEFAULT_WAIT_S = 30.0
"""How long to wait for something that should happen promptly; only a hang ever takes this long."""

LogLine = dict[str, Any]


class ChildError(AgentdError):
    """The daemon did not do what was waited for. The message ends with its last log lines."""


class DaemonProcess:
    """`agentd run` with a given environment. Use as `async with`; whatever still runs at the end is killed.

    `state_dir` outlives the process, so a second DaemonProcess with the same environment is a restart.
    """

    def __init__(
        self, environ: Mapping[str, str], *, state_dir: Path, arguments: tuple[str, ...] = ()
    ) -> None:
        self.state_dir = state_dir
        self.socket = state_dir / "agentd.sock"
        self.lines: list[LogLine] = []
        self._arguments = arguments
        self._environ = {
            **_inherited(),
            "AGENTD_STATE_DIR": str(state_dir),
            "AGENTD_LOG_FORMAT": "json",
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
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def ended(self) -> int | None:
        """The exit code, its last log line read; None while it runs."""
        return None if self.running else await self.exit_code()

    @staticmethod
    def inherited() -> dict[str, str]:
        """What a child is given of this process's environment."""
        return _inherited()

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
        """The first line of `event` (from line number `after` on) that satisfies `where`, waiting for it if need be.

        Raises `ChildError` when the daemon ends without it or `wait_s` passes.
        """

        def found() -> LogLine | None:
            return next(
                (line for line in self.lines[after:] if line.get("event") == event and where(line)), None
            )

        async def wait() -> LogLine:
            async with self._grew:
                while (line := found()) is None:
                    if self._reader is None or self._reader.done():
                        raise ChildError(f"agentd ended without {event!r}{self._last_lines()}")
                    await self._grew.wait()
                return line

        try:
            return await asyncio.wait_for(wait(), wait_s)
        except TimeoutError:
            raise ChildError(
                f"agentd did not log {event!r} within {wait_s:g} s{self._last_lines()}"
            ) from None

    async def ask(self, route: str, *, method: str = "GET", body: object = None) -> Any:  # noqa: ANN401 - JSON
        """One request to the local API; returns the parsed JSON."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(self.socket))) as session,
            session.request(method, f"http://agentd{route}", json=body) as response,
        ):
            return await response.json()

    async def status_until(
        self, satisfied: Callable[[dict[str, Any]], bool], *, what: str, wait_s: float = DEFAULT_WAIT_S
    ) -> dict[str, Any]:
        """Ask `/v1/status` until it satisfies; raises `ChildError` naming `what` after `wait_s`."""
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
            f"agentd's status did not show {what} within {wait_s:g} s: {status}{self._last_lines()}"
        )

    def signal(self, number: signal.Signals) -> None:
        self._running().send_signal(number)

    async def stop(self, *, wait_s: float = DEFAULT_WAIT_S) -> int:
        """SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        return await self.exit_code(wait_s=wait_s)

    async def kill(self) -> None:
        """SIGKILL, as the kernel's OOM killer or a node's end would."""
        self.signal(signal.SIGKILL)
        await self.exit_code()

    async def exit_code(self, *, wait_s: float = DEFAULT_WAIT_S) -> int:
        try:
            code = await asyncio.wait_for(self._running().wait(), wait_s)
        except TimeoutError:
            raise ChildError(f"agentd did not exit within {wait_s:g} s{self._last_lines()}") from None
        if self._reader is not None:
            # A hook left behind may hold our end of nothing, but a daemon's own stderr ends with it.
            await self._reader
        return code

    def events(self, *names: str) -> list[LogLine]:
        """The log lines of these events so far."""
        return [line for line in self.lines if line.get("event") in names]

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
                # Whoever waits must see that nothing more comes: this task counts as done one step from now.
                self._reader = None
                self._grew.notify_all()

    def _last_lines(self) -> str:
        return "".join(f"\n    {json.dumps(line, ensure_ascii=False)}" for line in self.lines[-12:])


def _inherited() -> dict[str, str]:
    """This process's environment without what would configure the child by accident."""
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
