"""One run of the daemon inside the test process, with real components and simulated peers."""

import asyncio

import pytest
from agents.scripted import ScriptedAgent

from agentd import config
from agentd.agents.agent import Activity
from agentd.clock import Clock
from agentd.daemon.build import build
from agentd.daemon.run import Daemon
from agentd.errors import ExitCode
from agentd.sdnotify import Notifier
from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd
from agentd.stability.tracker import AgentStatus


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
async def components(settings):
    async with build(settings, Clock()) as built:
        yield built


def daemon_of(components, settings):
    return Daemon(components, notifier=Notifier({}), read_config=lambda: settings)


COMPONENTS = ["recorder", "delivery", "task_reports", "listener", "hooks", "watcher", "snapshot_due"]


@pytest.mark.parametrize("component", COMPONENTS)
async def test_a_component_that_fails_always_does_not_end_the_daemon_and_the_conversation_is_delivered(
    components, settings, peers, component
):
    coderd, agent = peers
    agent.add_message("agent", "last words")
    failed = asyncio.Event()

    async def failing():
        failed.set()
        raise RuntimeError("a fault in the code")

    getattr(components, component).run = failing
    daemon = daemon_of(components, settings)
    async with asyncio.timeout(30):
        running = asyncio.create_task(daemon.run())
        await failed.wait()
        await asyncio.sleep(0.05)
        assert not running.done()
        daemon.stop("test")
        assert await running is ExitCode.OK
    [stored] = coderd.snapshots.values()
    assert stored.envelope["data"]["messages"][-1]["content"] == "last words"


async def test_a_fault_in_the_code_of_an_agent_kind_is_shown_and_does_not_end_the_daemon(
    components, settings, monkeypatch
):
    async def failing(*_args, **_kwargs):
        raise TypeError("an answer of an unknown shape")

    for name in ("observe", "messages", "saved_messages", "sessions"):
        monkeypatch.setattr(components.agent, name, failing)
    daemon = daemon_of(components, settings)
    async with asyncio.timeout(30):
        running = asyncio.create_task(daemon.run())
        while components.tracker.status is not AgentStatus.UNREACHABLE:
            await asyncio.sleep(0.01)
        assert "an answer of an unknown shape" in str(components.tracker.evidence)
        daemon.stop("test")
        assert await running is ExitCode.OK


@pytest.mark.parametrize(
    "step", ["watcher.read_final_messages", "hooks.run_stop_hooks", "task_reports.store"]
)
async def test_a_failing_step_of_the_shutdown_does_not_prevent_the_delivery(
    components, settings, peers, monkeypatch, step
):
    coderd, agent = peers
    agent.add_message("agent", "last words")
    await components.watcher.read_messages(5)

    async def broken(*_arguments):
        raise RuntimeError("a fault in the code")

    part, name = step.split(".")
    monkeypatch.setattr(getattr(components, part), name, broken)
    daemon = daemon_of(components, settings)
    running = asyncio.create_task(daemon.run())
    await asyncio.sleep(0.2)
    daemon.stop("test")
    async with asyncio.timeout(30):
        assert await running is ExitCode.FAILED
    assert len(coderd.snapshots) == 1


async def test_two_requests_for_a_stop_get_the_same_receipt(components, settings, peers):
    _, agent = peers
    agent.add_message("agent", "last words")
    daemon = daemon_of(components, settings)
    running = asyncio.create_task(daemon.run())
    first, second = await asyncio.gather(daemon._stop_and_wait(), daemon._stop_and_wait())
    assert first == second
    assert first["outcome"] == "delivered"
    assert await running is ExitCode.OK


async def test_the_daemon_works_with_an_agent_of_another_kind(settings, peers, monkeypatch):
    coderd, _ = peers
    agent = ScriptedAgent()
    monkeypatch.setattr("agentd.daemon.build.agent_of", lambda *_args, **_options: agent)
    async with build(settings, Clock()) as components:
        daemon = daemon_of(components, settings)
        running = asyncio.create_task(daemon.run())
        seen = []
        components.watcher.status_changed.add(lambda change: seen.append(change.new.value))
        async with asyncio.timeout(10):
            while "stable" not in seen:
                await asyncio.sleep(0.01)
            agent.say("user", "delete it all")
            agent.turn(Activity.WAITING, "may I run rm?")
            while seen[-1] != "waiting":
                await asyncio.sleep(0.01)
        status = daemon._views.status()
        assert status["agent"] | {"since": ""} == {
            "status": "waiting",
            "since": "",
            "evidence": "waiting for 0.0 s, 1 sample, may I run rm?",
            "kind": "scripted",
            "session": {
                "id": "s-1",
                "directory": "/home/coder",
                "started_at": "2026-03-02T09:00:00Z",
                "agent_version": "",
            },
            "sessions": 1,
        }
        assert (status["task"]["state"], status["task"]["message"]) == ("idle", "may I run rm?")
        daemon.stop("test")
        assert await running is ExitCode.OK
    [stored] = coderd.snapshots.values()
    assert stored.envelope["data"]["messages"][-1]["content"] == "delete it all"
