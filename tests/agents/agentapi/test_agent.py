"""AgentAPI's messages from the list and from the event stream together."""

import asyncio

import aiohttp
import pytest
from agents.contract import Following

from agentd.agents.agent import LastMessage
from agentd.agents.agentapi.agent import AgentApiAgent
from agentd.agents.agentapi.client import AgentApiClient
from agentd.clock import Clock
from agentd.simulator.agentapi import SimulatedAgentApi


@pytest.fixture
async def simulated():
    async with SimulatedAgentApi() as server:
        server.add_message("user", "hello")
        server.add_message("agent", "hello yourself")
        yield server


@pytest.fixture
async def agent(simulated):
    async with aiohttp.ClientSession() as session:
        agent = AgentApiAgent(AgentApiClient(simulated.url, session=session), keep=10, clock=Clock())
        yield agent
        await agent.close()


@pytest.mark.parametrize("replayed", [False, True], ids=["announced", "replayed"])
async def test_a_message_announced_during_a_read_is_not_lost_to_the_older_answer(
    simulated, agent, monkeypatch, replayed
):
    answered, release = asyncio.Event(), asyncio.Event()
    messages = agent._client.messages

    async def late(**options):
        answer = await messages(**options)
        answered.set()
        await release.wait()
        return answer

    following = Following(agent)
    if not replayed:
        await following.__aenter__()
    monkeypatch.setattr(agent._client, "messages", late)
    reading = asyncio.create_task(agent.messages(keep=10))
    await answered.wait()
    simulated.add_message("agent", "the news")
    if replayed:
        await following.__aenter__()
    try:
        async with asyncio.timeout(5):
            while not agent._window.live or agent._window.live[-1].content != "the news":
                await asyncio.sleep(0.005)
        release.set()
        assert (await reading)[-1].content == "hello yourself"
        newest = await agent.messages(keep=2)
        assert [message.content for message in newest] == ["hello yourself", "the news"]
        assert (await agent.observe()).last == LastMessage.of(newest)
    finally:
        await following.__aexit__()
