"""Every kind of agent passes the same contract."""

import json
import os

import aiohttp
import pytest
from agents.claude_files import ClaudeHome
from agents.codex_files import FakeDaemon, RolloutWriter, WriterLock
from agents.contract import REDACT, AgentContract
from agents.scripted import ScriptedAgent

from agentd.agents.agent import Activity
from agentd.agents.agentapi import client as client_module
from agentd.agents.agentapi.agent import AgentApiAgent
from agentd.agents.agentapi.client import AgentApiClient
from agentd.agents.claude_code.agent import ClaudeCodeAgent
from agentd.agents.codex.agent import CodexAgent
from agentd.agents.combined import Candidate, CombinedAgent
from agentd.simulator.agentapi import SimulatedAgentApi, statefile
from agentd.worker_thread import WorkerThread


class ScriptedStage:
    def __init__(self) -> None:
        self.agent = self.script = ScriptedAgent(REDACT)

    async def work(self, prompt):
        self.script.say("user", prompt)
        self.script.turn(Activity.BUSY)

    async def finish(self, answer):
        self.script.say("agent", answer)
        self.script.turn(Activity.IDLE)

    async def ask(self, question):
        self.script.turn(Activity.WAITING, question)

    async def stop(self):
        self.script.turn(Activity.GONE)

    async def start(self):
        self.script.history.clear()
        self.script.turn(Activity.IDLE)

    async def break_down(self):
        self.script.turn(Activity.BROKEN)

    def received(self):
        return self.script.inputs


class AgentApiStage:
    def __init__(self, simulated, agent, state_file) -> None:
        self.simulated = simulated
        self.state_file = state_file
        self.agent = agent

    async def work(self, prompt):
        self.simulated.set_status("running")
        self.simulated.add_message("user", prompt)

    async def finish(self, answer):
        self.simulated.add_message("agent", answer)
        self.simulated.set_status("stable")

    async def ask(self, question):
        raise NotImplementedError

    async def stop(self):
        statefile.save(self.simulated.conversation, self.state_file)
        await self.simulated.stop()

    async def start(self):
        await self.simulated.restart()

    async def break_down(self):
        self.simulated.fault("html_502", route="status", times=10)

    def received(self):
        return [json.loads(call.body)["content"] for call in self.simulated.calls("message")]


class ClaudeCodeStage:
    def __init__(self, home, agent) -> None:
        self.home, self.agent = home, agent
        self.home.turn("hello", "hello yourself")

    async def work(self, prompt):
        self.home.turn(prompt)

    async def finish(self, answer):
        self.home.write(self.home.records.answer(answer), self.home.records.duration())
        self.home.status("idle")

    async def ask(self, question):
        self.home.write(self.home.records.call(name="AskUserQuestion", questions=[{"question": question}]))
        self.home.status("waiting", "input needed")

    async def stop(self):
        self.home.exit()

    async def start(self):
        self.home.begin()
        self.home.status("idle")

    async def break_down(self):
        self.home.row_path.write_text('{"pid":')

    def received(self):
        return []


class CodexStage:
    """A thread of Codex whose lock this process holds."""

    def __init__(self, folder, agent) -> None:
        self.folder, self.agent = folder, agent
        self.daemon = FakeDaemon(folder)
        self.begin()
        self.rollout.start_turn("hello")
        self.rollout.end_turn("hello yourself")

    def begin(self):
        self.rollout = RolloutWriter(self.folder)
        self.lock = WriterLock(self.folder, self.rollout.thread)
        self.rollout.begin()

    async def work(self, prompt):
        self.rollout.start_turn(prompt)

    async def finish(self, answer):
        self.rollout.end_turn(answer)

    async def ask(self, question):
        self.rollout.call("rm -r /", question)
        self.daemon.say(self.rollout.thread, "active", "waitingOnApproval")
        await self.daemon.start(self.folder / "s")

    async def stop(self):
        self.lock.release()

    async def start(self):
        self.begin()

    async def break_down(self):
        self.rollout.path.write_bytes(b"\x00\xff no JSON\n" * 10)

    def received(self):
        return []


class TestScripted(AgentContract):
    @pytest.fixture
    def stage(self):
        return ScriptedStage()


class CombinedStage(ScriptedStage):
    """A scripted agent beside one that has ended and one that is not there."""

    def __init__(self, fake_clock, folder) -> None:
        super().__init__()
        ended = ScriptedAgent()
        ended.turn(Activity.GONE)
        candidates = [Candidate("scripted", folder / "missing", ScriptedAgent)]
        clock, disk = fake_clock.as_clock(), WorkerThread("test")
        self.agent = CombinedAgent([ended, self.script], candidates, clock=clock, disk=disk)


class TestCombined(AgentContract):
    @pytest.fixture
    async def stage(self, fake_clock, tmp_path):
        stage = CombinedStage(fake_clock, tmp_path)
        await stage.agent.observe()
        yield stage
        await stage.agent.close()


class TestAgentApi(AgentContract):
    @pytest.fixture
    async def stage(self, fake_clock, monkeypatch, tmp_path):
        state_file = tmp_path / "state.json"
        monkeypatch.setattr(client_module, "STATUS_TIMEOUT_S", 0.5)
        async with SimulatedAgentApi() as simulated, aiohttp.ClientSession() as session:
            simulated.load([{"role": "user", "content": "hello"}, {"content": "hello yourself"}])
            client = AgentApiClient(simulated.url, session=session)
            agent = AgentApiAgent(
                client, keep=3, clock=fake_clock.as_clock(), state_file=state_file, redact=REDACT
            )
            yield AgentApiStage(simulated, agent, state_file)
            await agent.close()


class TestClaudeCode(AgentContract):
    @pytest.fixture
    async def stage(self, fake_clock, tmp_path):
        home, disk = ClaudeHome(tmp_path / ".claude"), WorkerThread("test")
        agent = ClaudeCodeAgent(
            home.folder,
            owner=os.getuid(),
            directory=None,
            keep=3,
            clock=fake_clock.as_clock(),
            disk=disk,
            redact=REDACT,
        )
        yield ClaudeCodeStage(home, agent)
        await agent.close()
        disk.close(1)
        home.close()


class TestCodex(AgentContract):
    @pytest.fixture
    async def stage(self, fake_clock, tmp_path):
        folder, disk = tmp_path / ".codex", WorkerThread("test")
        folder.mkdir()
        agent = CodexAgent(
            folder, owner=os.getuid(), keep=3, clock=fake_clock.as_clock(), disk=disk, redact=REDACT
        )
        stage = CodexStage(folder, agent)
        yield stage
        await agent.close()
        await stage.daemon.stop()
        disk.close(1)
