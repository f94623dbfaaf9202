"""Fixtures for the pages: a real browser, the real daemon, and the simulated peers."""

import socket
from dataclasses import dataclass
from pathlib import Path

import pytest
from ui import chromium
from ui.hostile import HOSTILE, PROXY

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.workspaces import Workspace
from agentd.simulator.daemon_process import DaemonProcess

ARTEFACTS = Path(__file__).parents[1] / "artefacts"

HOOK = f"""#!/bin/sh
cat <<'END'
{HOSTILE}
END
echo "owner $AGENTD_OWNER_ID"
"""


def pytest_collection_modifyitems(items):
    missing = pytest.mark.skip(reason="no Chromium is installed (Debian: apt-get install chromium)")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ui)
            if chromium.executable() is None:
                item.add_marker(missing)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
async def browser(tmp_path):
    async with chromium.Chromium(tmp_path / "profile") as browser:
        yield browser


@pytest.fixture
def shots(request) -> Path:
    """The directory of this test's screenshots."""
    return ARTEFACTS / request.node.name


@dataclass
class Setup:
    """A daemon with its page, and its simulated peers."""

    coderd: SimulatedCoderd
    agent: SimulatedAgentApi
    workspace: Workspace
    task_id: str
    daemon: DaemonProcess
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def claim(self) -> None:
        self.coderd.claim_start(self.workspace)
        await self.coderd.claim_finish(self.workspace)


@pytest.fixture
async def setup(tmp_path):
    hooks = tmp_path / "hooks" / "on-claim.d"
    hooks.mkdir(parents=True)
    (hooks / "10-hostile").write_text(HOOK)
    (hooks / "10-hostile").chmod(0o755)
    async with SimulatedCoderd() as coderd, SimulatedAgentApi() as agent:
        workspace = coderd.add_prebuild()
        task_id, port = coderd.add_task(workspace), free_port()
        environ = {
            "CODER_AGENT_URL": coderd.url,
            "CODER_AGENT_TOKEN": workspace.token,
            "AGENTD_AGENTAPI_URL": agent.url,
            "AGENTD_AGENTAPI_POLL_INTERVAL_S": "0.1",
            "AGENTD_STABILITY_SETTLE_S": "0.5",
            "AGENTD_SNAPSHOTS_CHECKPOINT_S": "0.1",
            "AGENTD_SNAPSHOTS_TASK_ID": task_id,
            "AGENTD_CLAIMS_HOOKS_DIR": str(tmp_path / "hooks"),
            "AGENTD_LOCAL_API_LISTEN": f"127.0.0.1:{port}",
            "AGENTD_LOCAL_API_ALLOWED_HOSTS": PROXY,
        }
        async with DaemonProcess(environ, state_dir=tmp_path / "state") as daemon:
            await daemon.log("agentd.started")
            yield Setup(coderd, agent, workspace, task_id, daemon, port)
