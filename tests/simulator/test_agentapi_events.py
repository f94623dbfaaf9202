"""`GET /events`: contract agentapi.md section 5."""

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


async def test_everything_is_replayed_then_the_status_then_errors_then_what_comes(agent, wire):
    agent.add_message("user", "<b>")
    agent.agent_error("oops", "warning")
    stream = await wire(agent.port, "GET", "/events")
    head = await stream.head()
    for line in ("Content-Type: text/event-stream", "Cache-Control: no-cache", "X-Accel-Buffering: no"):
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


async def test_events_flow_while_a_send_holds_the_lock(agent, wire):
    agent.hang()
    stream = await wire(agent.port, "GET", "/events")
    await stream.head()
    await stream.until(b"status_change")
    agent.add_message("agent", "still here")
    assert b"still here" in await stream.until(b"still here")


async def test_a_deletion_is_not_announced(wire):
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


async def test_errors_are_kept_to_the_newest_hundred(agent):
    for number in range(150):
        agent.agent_error(str(number))

    assert [event.data["message"] for event in agent.conversation.errors] == [str(n) for n in range(50, 150)]


@pytest.mark.parametrize(("idle_s", "clean"), [(4.9, True), (5.0, False)])
async def test_a_stop_ends_the_stream_in_order_only_if_its_last_event_is_fresh(wire, idle_s, clean):
    now = [0.0]
    async with SimulatedAgentApi(monotonic=lambda: now[0]) as agent:
        stream = await wire(agent.port, "GET", "/events")
        await stream.until(b"status_change")
        await agent.until(lambda: agent.followers == 1)
        await asyncio.sleep(0)
        now[0] += idle_s
        await agent.stop()

        assert (await stream.rest()).endswith(b"\r\n0\r\n\r\n") == clean


async def test_who_lags_more_than_1024_events_is_cut_off_mid_stream(agent, wire):
    stream = await wire(agent.port, "GET", "/events")
    await stream.until(b"status_change")
    await agent.until(lambda: agent.followers == 1)
    for _ in range(1100):
        agent.add_message("agent", "burst")
    rest = await stream.rest()

    assert not rest.endswith(b"0\r\n\r\n")
    assert agent.followers == 0
