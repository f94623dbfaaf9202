"""The scripts of the Terraform module, run as the Coder agent runs them, against the simulators."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd

MODULE = Path(__file__).parents[2] / "deploy" / "terraform"
PROGRAM = Path(sys.executable).parent / "agentd"


class Agent:
    """The environment that a Coder agent gives to the scripts of a task's workspace."""

    def __init__(self, home: Path, coderd: SimulatedCoderd, agentapi: SimulatedAgentApi) -> None:
        self.coderd, self.agentapi = coderd, agentapi
        self.workspace = coderd.add_prebuild()
        self.task_id = coderd.add_task(self.workspace)
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "AGENTD_STATE_DIR": str(home / "state"),
            "CODER_AGENT_URL": coderd.url,
            "CODER_AGENT_TOKEN": self.workspace.token,
            "AGENTD_AGENTAPI_URL": agentapi.url,
            "AGENTD_SNAPSHOTS_TASK_ID": self.task_id,
            "AGENTD_SHUTDOWN_BUDGET_S": "4",
            "AGENTD_CLAIMS_HOOKS_DIR": str(home / "hooks"),
            "AGENTD": str(PROGRAM),
        }

    async def script(self, name: str) -> tuple[int, str]:
        """Run a script of the module until its output is closed, which is its end for the Coder agent."""
        process = await asyncio.create_subprocess_exec(
            "sh", MODULE / name, env=self.environ, start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, output.decode()

    def stored(self) -> str:
        snapshot = self.coderd.snapshots.get(self.task_id)
        return str(snapshot.envelope["data"]["messages"][-1]["content"]) if snapshot else ""


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    async with SimulatedCoderd(ping_s=1.0) as coderd, SimulatedAgentApi() as agentapi:
        agent = Agent(tmp_path, coderd, agentapi)
        yield agent
        await agent.script("stop.sh")


async def test_start_leaves_the_daemon_running_and_stop_delivers_the_last_message(agent: Agent) -> None:
    code, output = await agent.script("start.sh")
    assert code == 0, output
    async with asyncio.timeout(30):
        await agent.coderd.until(lambda: agent.coderd.open_streams(agent.workspace) > 0)
    agent.agentapi.add_message("agent", "the last message")
    code, output = await agent.script("stop.sh")
    assert code == 0, output
    assert agent.stored() == "the last message"
    async with asyncio.timeout(30):
        await agent.coderd.until(lambda: agent.coderd.open_streams(agent.workspace) == 0)


async def test_the_daemon_has_its_own_session_and_no_inherited_descriptors(agent: Agent) -> None:
    await agent.script("start.sh")
    state = Path(agent.environ["AGENTD_STATE_DIR"])
    pid = int((state / "agentd.lock").read_text())
    assert os.getsid(pid) == pid
    descriptors = {Path(f"/proc/{pid}/fd/{number}").readlink() for number in (0, 1, 2)}
    assert descriptors == {Path("/dev/null"), state / "agentd.log"}


async def test_stop_without_a_daemon_delivers(agent: Agent) -> None:
    agent.agentapi.add_message("agent", "no daemon was running")
    code, output = await agent.script("stop.sh")
    assert code == 0, output
    assert agent.stored() == "no daemon was running"


async def test_stop_without_coderd_prints_that_the_snapshot_stays_in_the_spool(agent: Agent) -> None:
    await agent.script("start.sh")
    await agent.coderd.stop()
    agent.agentapi.add_message("agent", "kept")
    code, output = await agent.script("stop.sh")
    assert code == 0
    assert "it stays in the spool, and the next start tries again" in output
    await agent.coderd.start()


async def test_a_daemon_that_does_not_start_fails_the_script_with_the_reason(agent: Agent) -> None:
    agent.environ["AGENTD_SNAPSHOTS_TASK_ID"] = "no-uuid"
    code, output = await agent.script("start.sh")
    assert code == 1
    assert "snapshots.task_id" in output
    agent.environ["AGENTD_SNAPSHOTS_TASK_ID"] = ""


async def test_an_image_without_agentd_fails_the_script_with_the_reason(agent: Agent) -> None:
    agent.environ["AGENTD"] = "/nowhere/agentd"
    code, output = await agent.script("start.sh")
    assert code == 1
    assert "/nowhere/agentd is not in this image" in output
    agent.environ["AGENTD"] = str(PROGRAM)
