import os

import pytest
from agents.codex_files import FakeDaemon, RolloutWriter, WriterLock

from agentd.agents.codex import locks, threads
from agentd.agents.codex.agent import CodexAgent
from agentd.agents.codex.locks import Writer
from agentd.worker_thread import WorkerThread


@pytest.fixture(autouse=True, scope="session")
def no_other_codex():
    """A Codex that runs on this machine is not seen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "programs", lambda _owner: [])
        yield


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / ".codex"
    path.mkdir()
    return path


@pytest.fixture
async def daemon(folder):
    daemon = FakeDaemon(folder)
    yield daemon
    await daemon.stop()


@pytest.fixture
async def make_agent(folder, fake_clock, daemon):
    """Builds agents; closed at the end, before the daemon."""
    made = []

    def make(keep=10, **more):
        disk = WorkerThread("test")
        agent = CodexAgent(
            folder, owner=os.getuid(), keep=keep, clock=fake_clock.as_clock(), disk=disk, **more
        )
        made.append((agent, disk))
        return agent

    yield make
    for agent, disk in made:
        await agent.close()
        disk.close(1)


@pytest.fixture
def old_process(monkeypatch):
    """This process counts as older than every record."""
    monkeypatch.setattr(locks, "writer_of", lambda pid: Writer(pid, 0.0))


@pytest.fixture
def session(folder):
    """An open session with one turn that is over."""
    writer = RolloutWriter(folder)
    writer.lock = WriterLock(folder, writer.thread)
    writer.begin()
    writer.start_turn("hello")
    writer.end_turn("hello yourself")
    return writer
