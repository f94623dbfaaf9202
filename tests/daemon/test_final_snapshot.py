"""AgentAPI is ended only when its conversation is stored. Real components and a real process."""

import asyncio
import errno
import os

import pytest
from structlog.testing import capture_logs

from agentd import config
from agentd.clock import Clock
from agentd.daemon.build import build
from agentd.simulator.agentapi import SimulatedAgentApi


@pytest.fixture
async def process(tmp_path):
    """A process that is called agentapi."""
    program = tmp_path / "agentapi"
    program.write_text("#!/bin/sh\ntrap : USR1\necho begun\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    process = await asyncio.create_subprocess_exec(str(program), stdout=asyncio.subprocess.PIPE)
    await process.stdout.readline()
    (tmp_path / "agentapi.pid").write_text(f"{process.pid}\n")
    yield process
    if process.returncode is None:
        process.kill()
    await process.communicate()


@pytest.fixture
async def components(tmp_path):
    async with SimulatedAgentApi() as agent:
        agent.add_message("agent", "my last words")
        settings = config.load(
            flags=[
                f"agentapi.url={agent.url}",
                f"agentapi.pid_file={tmp_path}/agentapi.pid",
                "shutdown.stop_agent=true",
                f"snapshots.destinations=file://{tmp_path}/away/",
                f"state.dir={tmp_path}/state",
            ],
            environ={},
            system_file=tmp_path / "none.toml",
        )
        async with build(settings, Clock()) as components:
            assert await components.watcher.read_final_messages(10)
            yield components


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def ended_after(components, process):
    entry = await components.recorder.flush_to_disk()
    with capture_logs() as logs:
        deadline = components.clock.monotonic() + 1.0
        await components.final_snapshot.deliver(entry, deadline, end_agent=True)
    return [line["event"] for line in logs if line["event"].startswith("agent.")]


async def test_the_agent_is_ended_when_the_snapshot_is_on_disk_and_not_delivered(
    components, process, tmp_path
):
    (tmp_path / "away").touch()  # a file where a folder should be: the destination fails
    assert await ended_after(components, process) == ["agent.ended"]
    assert await process.wait() == -15


async def test_the_agent_is_ended_when_the_snapshot_is_delivered_and_not_on_disk(
    components, process, monkeypatch
):
    monkeypatch.setattr("agentd.snapshots.spool_files.replace_file", full_disk)
    assert await ended_after(components, process) == ["agent.ended"]
    assert await process.wait() == -15


async def test_the_agent_is_left_running_when_the_snapshot_is_in_memory_only(
    components, process, monkeypatch, tmp_path
):
    monkeypatch.setattr("agentd.snapshots.spool_files.replace_file", full_disk)
    (tmp_path / "away").touch()
    assert await ended_after(components, process) == ["agent.left_running"]
    os.kill(process.pid, 0)
    assert process.returncode is None
