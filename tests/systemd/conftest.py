"""A booted systemd with agentd installed from its wheel, once for all tests of this directory."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import debian
import pytest
from booted import Booted

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.workspaces import Workspace

CLEAN = """
systemctl stop agentd.service agentd-token.path agentapi.service
systemctl reset-failed
agentd uninstall --purge
rm -rf /etc/agentd /run/systemd/system/*.d /run/systemd/system/workspace.target /etc/systemd/system/agentapi.service
systemctl daemon-reload
"""


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    debian.require("systemd-nspawn", "nsenter")
    base = debian.base_root()
    folder = tmp_path_factory.mktemp("systemd")
    wheels = debian.wheelhouse(base, folder / "wheels")
    with debian.copy_of(base, folder / "machine") as root:
        debian.install_agentd(root, wheels)
        with Booted(root, folder / "console.log") as booted:
            yield booted


@dataclass
class World:
    """The container, and outside of it the simulators with one prebuilt workspace and its task."""

    box: Booted
    coderd: SimulatedCoderd
    agent: SimulatedAgentApi
    workspace: Workspace
    task_id: str

    async def install(self, *words: str, settings: dict[str, str] | None = None) -> None:
        """Install agentd as in docs/operations.md, without starting it."""
        await self.box.run("agentd", "install", *words)
        lines = {
            "CODER_AGENT_URL": self.coderd.url,
            "AGENTD_SNAPSHOTS_TASK_ID": self.task_id,
            "AGENTD_AGENTAPI_URL": self.agent.url,
            "AGENTD_STABILITY_SETTLE_S": "0.5",
            "AGENTD_SNAPSHOTS_CHECKPOINT_S": "0.5",
            **(settings or {}),
        }
        self.box.write("/etc/agentd/agentd.env", "".join(f"{k}={v}\n" for k, v in lines.items()), 0o600)
        self.token(self.workspace.token)

    def token(self, token: str) -> None:
        self.box.write("/etc/agentd/token", token, 0o600)

    def hook(self, name: str, script: str) -> None:
        self.box.write(f"/etc/agentd/hooks/on-claim.d/{name}", f"#!/bin/sh\nset -eu\n{script}\n", 0o755)

    def override(self, **settings: str) -> None:
        """Override settings of the unit, to shorten the waiting times of a test."""
        lines = "".join(f"{name}={value}\n" for name, value in settings.items())
        self.box.write("/run/systemd/system/agentd.service.d/90-test.conf", f"[Service]\n{lines}")

    async def start(self) -> None:
        # Enabled, because systemd drops the result of a unit that no other unit refers to.
        await self.box.run("systemctl", "enable", "agentd")
        started = await self.box.run("systemctl", "start", "agentd", check=False)
        state = await self.box.show("ActiveState", "SubState")
        assert state == ["active", "running"], f"{started}\n{await self.box.journal()}"
        await self.listening()

    async def listening(self) -> None:
        """Wait until the claim stream is connected to coderd."""
        async with asyncio.timeout(60):
            await self.coderd.until(lambda: self.coderd.open_streams(self.workspace) > 0)

    async def claim(self) -> None:
        self.coderd.claim_start(self.workspace)
        await self.coderd.claim_finish(self.workspace)

    async def settled(self) -> None:
        async with asyncio.timeout(60):
            while '"state": "settled"' not in await self.box.run("agentd", "status", "--json", check=False):
                await asyncio.sleep(0.1)

    def stored(self) -> str:
        """The last message that coderd has stored for the task."""
        snapshot = self.coderd.snapshots.get(self.task_id)
        return str(snapshot.envelope["data"]["messages"][-1]["content"]) if snapshot else ""


@pytest.fixture
async def world(machine: Booted) -> AsyncIterator[World]:
    await machine.run("sh", "-c", CLEAN, check=False)
    async with SimulatedCoderd(ping_s=1.0) as coderd, SimulatedAgentApi() as agent:
        workspace = coderd.add_prebuild()
        yield World(machine, coderd, agent, workspace, coderd.add_task(workspace))
        await machine.run("sh", "-c", CLEAN, check=False)
