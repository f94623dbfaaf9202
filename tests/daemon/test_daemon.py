"""The daemon's life inside one process, with real rooms and simulated peers."""

import asyncio

import pytest

from agentd import config
from agentd.clock import Clock
from agentd.daemon.build import furnish
from agentd.daemon.run import Daemon
from agentd.errors import ExitCode
from agentd.sdnotify import Notifier
from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd


@pytest.fixture
async def peers():
    async with SimulatedCoderd(ping_s=0.5) as coderd, SimulatedAgentApi() as agent:
        yield coderd, agent


@pytest.fixture
def settings(peers, tmp_path):
    coderd, agent = peers
    workspace = coderd.add_prebuild()
    return config.load(
        environ={
            "CODER_AGENT_URL": coderd.url,
            "CODER_AGENT_TOKEN": workspace.token,
            "AGENTD_AGENTAPI_URL": agent.url,
            "AGENTD_SNAPSHOTS_TASK_ID": coderd.add_task(workspace),
            "AGENTD_SNAPSHOTS_UPLOAD": "stop",
            "AGENTD_STATE_DIR": str(tmp_path / "state"),
            "AGENTD_CLAIMS_HOOKS_DIR": str(tmp_path / "hooks"),
        },
        system_file=tmp_path / "none.toml",
    )


@pytest.fixture
async def rooms(settings):
    async with furnish(settings, Clock()) as furnished:
        yield furnished


def daemon_of(rooms, settings):
    return Daemon(rooms, notifier=Notifier({}), read_config=lambda: settings)


@pytest.mark.parametrize("how", ["raises", "returns"])
async def test_a_room_that_goes_dark_ends_the_daemon_with_the_conversation_delivered(
    rooms, settings, peers, how
):
    coderd, agent = peers
    agent.add_message("agent", "last words")

    async def dark():
        if how == "raises":
            raise RuntimeError("a fault in the code")

    rooms.recorder.run = dark
    async with asyncio.timeout(30):
        assert await daemon_of(rooms, settings).run() is ExitCode.FAILED
    [stored] = coderd.snapshots.values()
    assert stored.envelope["data"]["messages"][-1]["content"] == "last words"


async def test_a_step_of_the_shutdown_that_fails_does_not_cost_the_delivery(rooms, settings, peers):
    coderd, agent = peers
    agent.add_message("agent", "last words")
    await rooms.watcher.refresh(5)

    async def broken(_timeout_s):
        raise RuntimeError("a fault in the code")

    rooms.watcher.refresh = broken
    daemon = daemon_of(rooms, settings)
    daemon.stop("test")
    async with asyncio.timeout(30):
        assert await daemon.run() is ExitCode.FAILED
    assert len(coderd.snapshots) == 1


async def test_whoever_asks_for_the_stop_twice_gets_the_same_receipt(rooms, settings, peers):
    _, agent = peers
    agent.add_message("agent", "last words")
    daemon = daemon_of(rooms, settings)
    running = asyncio.create_task(daemon.run())
    first, second = await asyncio.gather(daemon._stop_and_report(), daemon._stop_and_report())
    assert first == second
    assert first["outcome"] == "delivered"
    assert await running is ExitCode.OK
