"""A Debian with a real systemd as process 1, in a container with this machine's network."""

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

BOOT_S = 60.0
COMMAND_S = 120.0
POLL_S = 0.1


class Booted:
    """`with Booted(root)` boots a container and runs commands in it. Skips the test if it does not boot."""

    def __init__(self, root: Path, log: Path) -> None:
        self.root = root
        self._log = log
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(
                [
                    "systemd-nspawn", "--boot", "--quiet", "--register=no", "--keep-unit", "--console=pipe",
                    "--machine=agentd-test", f"--directory={self.root}",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                # The host may still use cgroup v1.
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )  # fmt: skip
        deadline = time.monotonic() + BOOT_S
        while time.monotonic() < deadline and self._nspawn.poll() is None:
            self._init = _child_of(self._nspawn.pid)
            if self._init and self._state() in ("running", "degraded"):
                return self
            time.sleep(POLL_S)
        self._end()
        pytest.skip(f"cannot boot systemd: {self._log.read_text(errors='replace')[-300:]}")

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file from inside the container, because /run is a separate mount there."""
        script = f'mkdir -p "$(dirname {path})" && cat > {path}.new && chmod {mode:o} {path}.new && mv {path}.new {path}'
        subprocess.run(self._inside("sh", "-c", script), input=text.encode(), check=True, timeout=COMMAND_S)

    async def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside. Returns stdout and stderr; raises AssertionError if it fails and `check` is set."""
        process = await asyncio.create_subprocess_exec(
            *self._inside(*command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), COMMAND_S)
        text = output.decode(errors="replace").strip()
        assert not check or process.returncode == 0, f"{' '.join(command)}: {process.returncode}: {text}"
        return text

    async def show(self, *properties: str, unit: str = "agentd.service") -> list[str]:
        """The values of a unit's properties, in the order of `properties`."""
        text = await self.run("systemctl", "show", unit, *(f"--property={name}" for name in properties))
        values = dict(line.partition("=")[::2] for line in text.splitlines())
        return [values[name] for name in properties]

    async def until(
        self, wanted: dict[str, str], *, unit: str = "agentd.service", wait_s: float = 60.0
    ) -> None:
        """Wait until the properties equal `wanted`. The error has the values and the end of the journal."""
        seen: list[str] = []
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            seen = await self.show(*wanted, unit=unit)
            if seen == list(wanted.values()):
                return
            await asyncio.sleep(POLL_S)
        raise AssertionError(f"{unit}: {dict(zip(wanted, seen, strict=True))}\n{await self.journal(unit)}")

    async def journal(self, unit: str = "agentd.service") -> str:
        return await self.run(
            "journalctl", "--no-pager", "--output=short-monotonic", "--lines=60", f"--unit={unit}"
        )

    def _state(self) -> str:
        done = subprocess.run(
            self._inside("systemctl", "is-system-running"), capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def _inside(self, *command: str) -> list[str]:
        return [
            "nsenter", f"--target={self._init}", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--",
            "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
            *command,
        ]  # fmt: skip

    def _end(self) -> None:
        if self._nspawn is None:
            return
        if self._init and self._nspawn.poll() is None:
            os.kill(self._init, signal.SIGRTMIN + 4)  # systemd(1): power off
        try:
            self._nspawn.wait(BOOT_S)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()


def _child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0
