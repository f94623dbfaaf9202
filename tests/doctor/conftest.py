"""An installation without faults, for tests that add one."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentd import config
from agentd.cli import doctor
from agentd.clock import Clock
from agentd.doctor import control_plane
from agentd.doctor.finding import Finding
from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.workspaces import Workspace


@dataclass
class SimulatedInstallation:
    """One installation: peers, directories, environment. Its clock is wrong by `wall_offset_s`."""

    home: Path
    coderd: SimulatedCoderd
    agent: SimulatedAgentApi
    workspace: Workspace
    stack: contextlib.AsyncExitStack
    environ: dict[str, str] = field(default_factory=dict)
    wall_offset_s: float = 0.0

    @property
    def state_dir(self) -> Path:
        return self.home / "state"

    @property
    def hooks(self) -> Path:
        return self.home / "hooks" / "on-claim.d"

    async def findings(self) -> list[Finding]:
        settings = config.load(environ=self.environ, system_file=self.home / "none.toml")
        return await doctor.run_checks(settings, Clock(wall=lambda: time.time() + self.wall_offset_s))

    async def behind_tls(self, context: ssl.SSLContext) -> None:
        """Put coderd behind https, at `localhost`."""
        port = self.coderd.port

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            upstream, downstream = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await asyncio.gather(_copy(reader, downstream), _copy(upstream, writer))

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        self.stack.callback(server.close)
        self.environ["CODER_AGENT_URL"] = f"https://localhost:{server.sockets[0].getsockname()[1]}"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()


@pytest.fixture(autouse=True)
def _short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    # Shorter than in production, in the same order.
    monkeypatch.setattr(control_plane, "ACCEPTED_AFTER_S", 0.1)
    monkeypatch.setattr(control_plane, "ANSWER_TIMEOUT_S", 2.0)


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[SimulatedInstallation]:
    async with (
        contextlib.AsyncExitStack() as stack,
        SimulatedCoderd() as coderd,
        SimulatedAgentApi() as agent,
    ):
        workspace = coderd.add_prebuild()
        installation = SimulatedInstallation(tmp_path, coderd, agent, workspace, stack)
        installation.state_dir.mkdir(mode=0o700)
        installation.hooks.mkdir(parents=True, mode=0o755)
        installation.environ = {
            "HOME": str(tmp_path),
            "CODER_AGENT_URL": coderd.url,
            "CODER_AGENT_TOKEN": workspace.token,
            "AGENTD_AGENTAPI_URL": agent.url,
            "AGENTD_SNAPSHOTS_TASK_ID": coderd.add_task(workspace),
            "AGENTD_CLAIMS_HOOKS_DIR": str(tmp_path / "hooks"),
            "AGENTD_STATE_DIR": str(installation.state_dir),
            "AGENTD_SHUTDOWN_GRACE_S": "30",
        }
        yield installation
