"""`GET /events` of the simulated AgentAPI."""

import asyncio

import pytest

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.faults import SimulatorError

NOON = 1_772_442_000.0


def chunk(text):
    data = text.encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.fixture
async def agent():
    async with SimulatedAgentApi(now=lambda: NOON) as server:
        yield server


async def test_a_stream_has_the_messages_the_status_the_errors_and_then_live_events(agent, wire):
    agent.add_message("user", "<b>")
    agent.agent_error("oops", "warning")
    stream = await wire(agent.port, "GET", "/events")
    head = await stream.head()
    for line in ("Content-Type: text/event-stream", "X-Accel-Buffering: no", "X-Proxy-Buffering: no"):
        assert f"\r\n{line}\r\n" in head
    replay = (
        'event: message_update\ndata: {"id":0,"role":"agent","message":"","time":"2026-03-02T09:00:00Z"}\n\n',
        'event: message_update\ndata: {"id":1,"role":"user","message":"\\u003cb\\u003e","time":"2026-03-02T09:00:00Z"}\n\n',
        'event: status_change\ndata: {"status":"stable","agent_type":"claude"}\n\n',
        'event: agent_error\ndata: {"message":"oops","level":"warning","time":"2026-03-02T09:00:00Z"}\n\n',
    )
    for event in replay:
        assert await stream.exactly(len(chunk(event))) == chunk(event)

    agent.set_status("running")
    agent.set_status("running")
    agent.add_message("agent", "on it")
    agent.rewrite_last("on it!")
    live = (
        'event: status_change\ndata: {"status":"running","agent_type":"claude"}\n\n',
        'event: message_update\ndata: {"id":2,"role":"agent","message":"on it","time":"2026-03-02T09:00:00Z"}\n\n',
        'event: message_update\ndata: {"id":2,"role":"agent","message":"on it!","time":"2026-03-02T09:00:00Z"}\n\n',
    )
    for event in live:
        assert await stream.exactly(len(chunk(event))) == chunk(event)
    assert stream.unread() == b""


async def test_events_are_sent_while_the_send_lock_is_held(agent, wire):
    agent.hang()
    stream = await wire(agent.port, "GET", "/events")
    await stream.head()
    await stream.until(b"status_change")
    agent.add_message("agent", "still here")
    assert b"still here" in await stream.until(b"still here")


async def test_a_removed_message_causes_no_event(wire):
    async with SimulatedAgentApi(mode="acp") as agent:
        agent.add_message("user", "a")
        stream = await wire(agent.port, "GET", "/events")
        await stream.until(b"status_change")
        await stream.until(b"\r\n")
        agent.conversation.remove_last()
        agent.set_status("running")
        assert b"message_update" not in await stream.until(b"running")


async def test_old_versions_have_no_agent_error():
    with pytest.raises(SimulatorError, match=r"0\.11\.8 has no agent_error"):
        SimulatedAgentApi(version="0.11.8").agent_error("x")


async def test_the_newest_100_errors_are_kept(agent):
    for number in range(150):
        agent.agent_error(str(number))

    assert [event.data["message"] for event in agent.conversation.errors] == [str(n) for n in range(50, 150)]


@pytest.mark.parametrize(("idle_s", "clean"), [(4.9, True), (5.0, False)])
async def test_a_stop_sends_the_last_chunk_only_after_a_recent_event(wire, idle_s, clean):
    now = [0.0]
    async with SimulatedAgentApi(monotonic=lambda: now[0]) as agent:
        stream = await wire(agent.port, "GET", "/events")
        await stream.until(b"status_change")
        await agent.until(lambda: agent.followers == 1)
        await asyncio.sleep(0)
        now[0] += idle_s
        await agent.stop()

        assert (await stream.rest()).endswith(b"\r\n0\r\n\r\n") == clean


async def test_a_client_that_lags_by_more_than_1024_events_is_disconnected(agent, wire):
    stream = await wire(agent.port, "GET", "/events")
    await stream.until(b"status_change")
    await agent.until(lambda: agent.followers == 1)
    for _ in range(1100):
        agent.add_message("agent", "burst")
    rest = await stream.rest()

    assert not rest.endswith(b"0\r\n\r\n")
    assert agent.followers == 0
