"""AgentAPI's process: state file, pid file, and the effects of its signals.

The caller handles the signals.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from agentd.simulator.agentapi import statefile
from agentd.simulator.agentapi.server import SimulatedAgentApi
from agentd.simulator.faults import SimulatorError

PANIC: Final = 2
"""Exit code of a Go program that panicked."""


class AgentProcess:
    """One AgentAPI process: `begin()`, `save()` at SIGUSR1, `end()` at SIGTERM, SIGINT or SIGHUP."""

    def __init__(self, agent: SimulatedAgentApi, *, state_file: Path | None, pid_file: Path | None) -> None:
        has_state = agent.has("state")
        for name, path in (("state", state_file), ("pid", pid_file)):
            if path is not None and not has_state:
                raise SimulatorError(
                    f"AgentAPI {agent.version} has no {name} file", hint="use 0.12.0 or later"
                )
        if state_file is not None and agent.mode == "acp":
            raise SimulatorError("AgentAPI has no state file in ACP mode")
        self._agent = agent
        self._state_file = state_file
        self._pid_file = pid_file
        self._wrote_pid = False

    async def begin(self) -> None:
        """Load the saved state, listen, write the pid file.

        Raises `SimulatorError` when the pid file's process runs.
        """
        if self._pid_file is not None:
            self._refuse_second(self._pid_file)
        if self._state_file is not None:
            statefile.load(self._agent.conversation, self._state_file)
        await self._agent.start()
        if self._pid_file is not None:
            self._write_pid(self._pid_file)

    def save(self) -> bool:
        """Write the state, as at SIGUSR1. Versions before 0.12.0 ignore the signal."""
        return self._state_file is not None and statefile.save(self._agent.conversation, self._state_file)

    async def end(self) -> int:
        """Stop gracefully and return the exit code.

        In ACP mode the real server panics and leaves its pid file.
        """
        if self._agent.mode == "acp" and self._agent.has("state"):
            await self._agent.stop()
            return PANIC
        self.save()
        await self._agent.stop()
        if self._wrote_pid and self._pid_file is not None:
            self._pid_file.unlink(missing_ok=True)
        return 0

    def _write_pid(self, path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
        self._wrote_pid = True

    def _refuse_second(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid = int(path.read_text(encoding="ascii"))
            os.kill(pid, 0)
            # Like the real server, this accepts any running process with that pid.
            raise SimulatorError(f"another instance is already running (pid {pid})", hint=f"see {path}")
