"""Every kind of agent passes the same contract."""

import json

import aiohttp
import pytest
from agents.contract import AgentContract
from agents.scripted import ScriptedAgent

from agentd.agents.agent import Activity
from agentd.agents.agentapi import client as client_module
from agentd.agents.agentapi.agent import AgentApiAgent
from agentd.agents.agentapi.client import AgentApiClient
from agentd.simulator.agentapi import SimulatedAgentApi


class ScriptedStage:
    def __init__(self) -> None:
        self.agent = ScriptedAgent()

    async def work(self, prompt):
        self.agent.say("user", prompt)
        self.agent.turn(Activity.BUSY)

    async def finish(self, answer):
        self.agent.say("agent", answer)
        self.agent.turn(Activity.IDLE)

    async def ask(self, question):
        self.agent.turn(Activity.WAITING, question)

    async def stop(self):
        self.agent.turn(Activity.GONE)

    async def start(self):
        self.agent.history.clear()
        self.agent.turn(Activity.IDLE)

    async def break_down(self):
        self.agent.turn(Activity.BROKEN)

    def received(self):
        return self.agent.inputs


class AgentApiStage:
    def __init__(self, simulated, agent) -> None:
        self.simulated = simulated
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
        await self.simulated.stop()

    async def start(self):
        await self.simulated.restart()

    async def break_down(self):
        self.simulated.fault("html_502", route="status", times=10)

    def received(self):
        return [json.loads(call.body)["content"] for call in self.simulated.calls("message")]


class TestScripted(AgentContract):
    @pytest.fixture
    def stage(self):
        return ScriptedStage()


class TestAgentApi(AgentContract):
    @pytest.fixture
    async def stage(self, fake_clock, monkeypatch):
        monkeypatch.setattr(client_module, "STATUS_TIMEOUT_S", 0.5)
        async with SimulatedAgentApi() as simulated, aiohttp.ClientSession() as session:
            simulated.add_message("user", "hello")
            simulated.add_message("agent", "hello yourself")
            client = AgentApiClient(simulated.url, session=session)
            agent = AgentApiAgent(client, keep=3, clock=fake_clock.as_clock())
            yield AgentApiStage(simulated, agent)
            await agent.close()
