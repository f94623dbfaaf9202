"""A testbed for the real daemon: simulated peers on loopback, a state directory of its own, and command runs."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.workspaces import Workspace
from agentd.simulator.daemon_process import DaemonProcess

pytestmark = pytest.mark.e2e


@dataclass
class CommandResult:
    """A command's exit code and output."""

    code: int
    out: str
    err: str


@dataclass
class Testbed:
    coderd: SimulatedCoderd
    agent: SimulatedAgentApi
    workspace: Workspace
    task_id: str
    home: Path
    daemons: list[DaemonProcess] = field(default_factory=list)

    @property
    def state_dir(self) -> Path:
        return self.home / "state"

    @property
    def environ(self) -> dict[str, str]:
        """Short times: a tenth of the defaults or less, in the same order."""
        return {
            "CODER_AGENT_URL": self.coderd.url,
            "CODER_AGENT_TOKEN": self.workspace.token,
            "AGENTD_AGENT_SOURCES": "agentapi",
            "AGENTD_AGENTAPI_URL": self.agent.url,
            "AGENTD_AGENTAPI_POLL_INTERVAL_S": "0.05",
            "AGENTD_STABILITY_SETTLE_S": "0.2",
            "AGENTD_SNAPSHOTS_CHECKPOINT_S": "0.1",
            "AGENTD_SNAPSHOTS_TASK_ID": self.task_id,
            "AGENTD_CLAIMS_HOOKS_DIR": str(self.home / "hooks"),
            "AGENTD_SHUTDOWN_BUDGET_S": "10",
            "AGENTD_LOG_LEVEL": "debug",
            "AGENTD_STATE_DIR": str(self.state_dir),
        }

    async def start(self, *arguments: str, **environ: str) -> DaemonProcess:
        daemon = await self.launch(*arguments, **environ)
        await daemon.log("agentd.started")
        return daemon

    async def launch(self, *arguments: str, **environ: str) -> DaemonProcess:
        """Start the daemon without waiting for a log line."""
        daemon = DaemonProcess(self.environ | environ, state_dir=self.state_dir, arguments=arguments)
        self.daemons.append(daemon)
        return await daemon.start()

    async def run(self, *words: str, without: tuple[str, ...] = (), **environ: str) -> CommandResult:
        """Run a command with the daemon's environment."""
        env = {**os.environ, **self.environ, **environ}
        for name in without:
            env.pop(name, None)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agentd", *words, env=env,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return CommandResult(process.returncode, out.decode(), err.decode())

    def hook(self, name: str, script: str) -> None:
        folder = self.home / "hooks" / "on-claim.d"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def counting_hook(self, name: str) -> None:
        """A hook that adds a line to `runs` each time it runs."""
        self.hook(name, f'echo "$AGENTD_HOOK $AGENTD_ATTEMPT" >> {self.home}/runs')

    def runs(self) -> list[str]:
        """The lines that the hooks added."""
        record = self.home / "runs"
        return record.read_text().splitlines() if record.exists() else []

    def stored(self) -> list[dict[str, object]]:
        """The messages that coderd stores for the task."""
        snapshot = self.coderd.snapshots.get(self.task_id)
        return snapshot.envelope["data"]["messages"] if snapshot else []

    async def claim(self, daemon: DaemonProcess) -> None:
        """Claim the workspace and wait until its hooks have run."""
        await daemon.status_until(lambda s: s["claims"]["state"] == "listening", what="listening")
        self.coderd.claim_start(self.workspace)
        await self.coderd.claim_finish(self.workspace)
        await daemon.status_until(lambda s: s["claims"]["state"] == "settled", what="settled")


@pytest.fixture
async def testbed(tmp_path: Path) -> AsyncIterator[Testbed]:
    async with SimulatedCoderd(ping_s=0.5) as coderd, SimulatedAgentApi() as agent:
        workspace = coderd.add_prebuild()
        bed = Testbed(coderd, agent, workspace, coderd.add_task(workspace), tmp_path)
        yield bed
        for daemon in bed.daemons:
            await daemon.__aexit__(None, None, None)
