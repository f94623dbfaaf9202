"""The last read at a stop: nothing is missed, and nothing is waited for that cannot come."""

import asyncio
import time

import pytest

from agentd.agents.agentapi import agent as agent_module
from agentd.agents.agentapi import proof
from agentd.simulator.agentapi import events as simulated_events
from agentd.stability.tracker import AgentStatus


@pytest.fixture
def every_history_is_large(monkeypatch):
    monkeypatch.setattr(proof, "CHEAP_READ_BYTES", 0)


@pytest.fixture
def late_events(monkeypatch):
    """Every event after the replay waits until this is set."""
    release, following = asyncio.Event(), simulated_events._next

    async def late(follower):
        event = await following(follower)
        await release.wait()
        return event

    monkeypatch.setattr(simulated_events, "_next", late)
    return release


async def settled(bench):
    """The proof counts in the test's time."""
    bench.client.now = lambda: bench.clock.now
    bench.simulated.set_status("running")
    bench.simulated.add_message("agent", "more")
    await bench.seconds(2)
    bench.simulated.set_status("stable")
    await bench.seconds(8)
    assert bench.states[-1] is AgentStatus.STABLE


@pytest.mark.usefixtures("every_history_is_large")
@pytest.mark.parametrize("quiet_s", [0, 60])
async def test_a_large_history_that_is_proven_unchanged_is_not_read_again(following, quiet_s):
    await settled(following)
    await following.seconds(quiet_s)
    before = following.asked("messages"), len(following.windows)
    assert await following.watcher.read_final_messages(2.0)
    assert (following.asked("messages"), len(following.windows)) == (before[0], before[1] + 1)
    assert following.windows[-1][-1] == "more"


@pytest.mark.usefixtures("every_history_is_large")
async def test_by_polling_alone_it_is_not_read_again_either(bench):
    async with bench.running():
        await bench.rest()
        await settled(bench)
        before = bench.asked("messages")
        assert await bench.watcher.read_final_messages(2.0)
        assert bench.asked("messages") == before


@pytest.mark.usefixtures("every_history_is_large")
@pytest.mark.parametrize("gap_s", [0.0, 3.0])
async def test_a_change_whose_event_is_late_is_read(bench, late_events, monkeypatch, gap_s):
    """`gap_s`: the agent is quiet again since then, and no poll was made meanwhile."""
    monkeypatch.setattr(type(bench.agent), "changes", agent_module.AgentApiAgent.changes)
    late_events.set()
    async with bench.running():
        await bench.until(lambda: bench.agent.is_announcing)
        await bench.rest()
        await settled(bench)
        late_events.clear()
        bench.simulated.set_status("running")
        bench.simulated.add_message("user", "one thing more")
        bench.simulated.add_message("agent", "the very last words")
        bench.simulated.set_status("stable" if gap_s else "running")
        bench.clock.now += gap_s
        assert await bench.watcher.read_final_messages(2.0)
        assert bench.windows[-1][-1] == "the very last words"
        late_events.set()


@pytest.mark.usefixtures("every_history_is_large")
async def test_in_acp_mode_a_large_history_is_read(following):
    following.simulated.mode = "acp"
    await settled(following)
    before = following.asked("messages")
    assert await following.watcher.read_final_messages(2.0)
    assert following.asked("messages") == before + 1


async def test_a_small_history_is_always_read(following):
    await settled(following)
    before = following.asked("messages")
    assert await following.watcher.read_final_messages(2.0)
    assert following.asked("messages") == before + 1


async def test_an_agent_that_is_known_to_be_busy_and_hangs_is_not_waited_for(following):
    following.simulated.hang()
    following.simulated.set_status("running")
    following.simulated.add_message("user", "a long turn")
    following.simulated.add_message("agent", "its latest thought")
    await following.until(lambda: following.states[-1] is AgentStatus.RUNNING)
    began = time.monotonic()
    assert not await following.watcher.read_final_messages(10.0)
    assert time.monotonic() - began < 1.0  # 0.15 s on an idle machine
    assert following.windows[-1][-1] == "its latest thought"
    following.simulated.release()


async def test_an_agent_that_is_busy_and_answers_is_read_although_its_events_are_late(
    bench, late_events, monkeypatch
):
    monkeypatch.setattr(type(bench.agent), "changes", agent_module.AgentApiAgent.changes)
    bench.simulated.set_status("running")
    async with bench.running():
        await bench.until(lambda: bench.agent.is_announcing)
        await bench.rest()
        bench.simulated.add_message("agent", "words whose event is late")
        assert await bench.watcher.read_final_messages(10.0)
        assert bench.windows[-1][-1] == "words whose event is late"
        late_events.set()
