"""AgentAPI's answers and silences, each under its name."""

import asyncio
import json
from contextlib import aclosing, suppress

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from agentd.agents.agentapi import client as client_module
from agentd.agents.agentapi.client import (
    AgentApiClient,
    AgentBrokenError,
    AgentBusyError,
    AgentGoneError,
    HostRefusedError,
    InputRefusedError,
    StatusReading,
)
from agentd.agents.agentapi.events import EVENT_MAX_BYTES, StatusChange
from agentd.conversation.message import NotAMessageError
from agentd.conversation.window import UndecodedMessage
from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.tls import aiohttp


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def simulated():
    async with SimulatedAgentApi() as agentapi:
        yield agentapi


@pytest.fixture
async def agent(simulated, session):
    agent = AgentApiClient(simulated.url, session=session)
    yield agent
    await agent.close()


@pytest.fixture
def quick(agent, monkeypatch):
    """An AgentApi that takes a silence of 50 ms for one."""
    monkeypatch.setattr(client_module, "STATUS_TIMEOUT_S", 0.05)
    monkeypatch.setattr(client_module, "MESSAGES_TIMEOUT_S", 0.05)
    return agent


async def test_status_is_what_the_agent_says(simulated, agent):
    assert await agent.status() == StatusReading("stable", "claude", "pty")
    simulated.set_status("running")
    assert (await agent.status()).status == "running"


async def test_versions_without_agent_type_and_transport_are_read(session):
    async with SimulatedAgentApi(version="0.10.0") as old:
        assert await AgentApiClient(old.url, session=session).status() == StatusReading("stable", "", "")


async def test_messages_are_the_newest_of_the_history(simulated, agent):
    simulated.load([{"content": f"message {i}"} for i in range(300)])
    assert [m.content for m in await agent.messages(keep=2)] == ["message 298", "message 299"]
    assert agent.history_bytes > 300 * len("message 1")


async def test_localhost_is_connected_to_directly_and_named_in_the_host_header(simulated, session):
    agent = AgentApiClient(f"http://localhost:{simulated.port}/", session=session)
    await agent.status()
    assert simulated.requests[-1].headers["Host"] == f"localhost:{simulated.port}"
    assert agent.url == f"http://localhost:{simulated.port}"


async def test_a_refused_host_is_told_apart_and_names_the_allowed_ones(session):
    async with SimulatedAgentApi(allowed_hosts=["only.example"]) as simulated:
        with pytest.raises(
            HostRefusedError, match=r"Allowed hosts: only\.example; set AGENTAPI_ALLOWED_HOSTS"
        ):
            await AgentApiClient(simulated.url, session=session).status()


async def test_a_status_that_hangs_is_busy_and_the_agent_still_alive(simulated, quick):
    agent = quick
    simulated.hang()
    with pytest.raises(AgentBusyError):
        await agent.status()
    assert await agent.is_up()
    simulated.release()
    assert (await agent.status()).status == "stable"


async def test_requests_that_hang_do_not_pile_up(simulated, quick):
    agent = quick
    simulated.hang()
    for _ in range(4):
        with pytest.raises(AgentBusyError):
            await agent.status()
        with pytest.raises(AgentBusyError):
            await agent.messages(keep=3)
    assert len(simulated.calls("status")) == len(simulated.calls("messages")) == 1
    await agent.close()


async def test_a_caller_that_waits_while_another_is_answered_gets_the_same_answer(simulated, agent):
    simulated.hang()
    calls = [asyncio.create_task(agent.messages(keep=5)) for _ in range(3)]
    await simulated.until(lambda: bool(simulated.calls("messages")))
    simulated.release()
    windows = await asyncio.gather(*calls)
    assert len(simulated.calls("messages")) == 1
    assert windows[0] == windows[1] == windows[2]


async def test_an_answer_that_arrived_without_a_caller_is_stale(simulated, quick):
    agent = quick
    simulated.hang()
    with pytest.raises(AgentBusyError):
        await agent.status()
    simulated.release()
    await simulated.until(lambda: simulated.calls("status")[0].status == 200)
    for _ in range(20):
        await asyncio.sleep(0)
    simulated.set_status("running")
    await_fresh = await agent.status()
    assert await_fresh.status == "running"


async def test_a_stopped_server_is_gone_and_not_alive(simulated, agent):
    await simulated.stop()
    for call in (agent.status, lambda: agent.messages(keep=1), lambda: agent.send("x", timeout_s=1)):
        with pytest.raises(AgentGoneError):
            await call()
    assert not await agent.is_up()


@pytest.mark.parametrize("kind", ["eof", "reset_before_body", "reset_after_body"])
async def test_a_connection_that_breaks_without_an_answer_is_gone(simulated, agent, kind):
    simulated.fault(kind, route="status", times=2)
    with pytest.raises(AgentGoneError):
        await agent.status()


async def test_messages_are_asked_for_again_when_the_list_grew_under_the_server(simulated, agent):
    simulated.add_message("user", "hello")
    simulated.fault("eof", route="messages")
    assert [m.content for m in await agent.messages(keep=1)] == ["hello"]


async def test_the_bogus_tail_of_a_shrunken_list_is_dropped(simulated, agent):
    simulated.add_message("user", "hello")
    simulated.bogus_tail()
    assert [m.content for m in await agent.messages(keep=1)] == ["hello"]


async def test_messages_that_are_malformed_are_logged_once_until_a_history_has_none(agent):
    with capture_logs() as logs:
        for skipped in (2, 3, 0, 1):
            agent._on_skipped(skipped, "id is missing")
    assert [(line["event"], line["messages"]) for line in logs] == [
        ("agent.messages_skipped", 2),
        ("agent.messages_skipped", 1),
    ]


async def test_messages_null_is_an_empty_conversation(simulated, agent):
    simulated.fault("null", route="messages")
    assert await agent.messages(keep=1) == []


@pytest.mark.parametrize("kind", ["html", "malformed", "empty", "html_502"])
async def test_an_answer_that_agentapi_does_not_give_is_broken(simulated, agent, kind):
    simulated.fault(kind, route="messages")
    with pytest.raises(AgentBrokenError, match="GET /messages"):
        await agent.messages(keep=1)
    simulated.fault(kind, route="status")
    with pytest.raises(AgentBrokenError, match="GET /status"):
        await agent.status()


@pytest.mark.parametrize(
    "body",
    [
        '{"status":"ready"}',
        '{"status":["stable"]}',
        "[]",
        "{}",
        "[" * 5000,
        '{"status":"stable"'.ljust(40_000),
    ],
)
async def test_a_status_with_another_word_is_broken_and_quoted_briefly(simulated, agent, body):
    simulated.fault("respond", route="status", status=200, body=body)
    with pytest.raises(AgentBrokenError) as refusal:
        await agent.status()
    assert len(str(refusal.value)) < 300


async def test_a_body_that_ends_inside_the_list_is_gone(simulated, agent):
    simulated.fault("cut_body", route="messages")
    with pytest.raises(AgentGoneError, match="before the end of its answer"):
        await agent.messages(keep=1)


@pytest.mark.parametrize("kind", ["endless", "endless_string"])
async def test_a_body_without_end_is_cut_off(simulated, agent, kind, monkeypatch):
    monkeypatch.setattr(client_module, "BODY_TIMEOUT_S", 0.1)
    simulated.fault(kind, route="messages")
    with pytest.raises(AgentBrokenError, match="did not end"):
        await agent.messages(keep=3)


async def test_redirects_are_not_followed(simulated, agent):
    simulated.fault("redirect", route="status", location="http://127.0.0.1:1/status")
    with pytest.raises(AgentBrokenError, match="307"):
        await agent.status()


async def test_a_compressed_answer_is_refused_before_it_inflates(simulated, agent):
    simulated.fault(
        "respond", route="messages", status=200, body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}
    )
    with pytest.raises(AgentBrokenError, match="compressed"):
        await agent.messages(keep=1)


async def test_headers_without_end_are_broken(simulated, agent):
    simulated.fault("header_flood", route="status")
    with pytest.raises(AgentBrokenError):
        await agent.status()


async def test_a_message_is_sent_as_the_user(simulated, agent):
    await agent.send("go on", timeout_s=5)
    assert simulated.received == [{"content": "go on", "type": "user"}]


async def test_a_refused_message_says_why(simulated, agent):
    simulated.set_status("running")
    with pytest.raises(InputRefusedError, match="waiting for user input"):
        await agent.send("go on", timeout_s=5)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"detail": "d", "errors": [{"message": "the cause"}]}, "the cause"),
        ({"detail": "d", "errors": []}, "d"),
        ({"title": "t", "errors": "none"}, "t"),
        ([], "gave no reason"),
    ],
)
async def test_the_reason_of_a_refusal_is_found_wherever_it_stands(simulated, agent, body, says):
    simulated.fault(
        "respond", route="message", status=500, body=json.dumps(body), content_type="application/problem+json"
    )
    with pytest.raises(InputRefusedError, match=says):
        await agent.send("x", timeout_s=5)


async def test_a_send_answered_by_something_else_is_broken(simulated, agent):
    simulated.fault("html_502", route="message")
    with pytest.raises(AgentBrokenError, match="POST /message: 502"):
        await agent.send("x", timeout_s=5)


async def test_a_send_that_is_not_finished_in_time_is_busy(simulated, agent):
    simulated.hang()
    with pytest.raises(AgentBusyError, match="not finished"):
        await agent.send("x", timeout_s=0.05)
    simulated.release()


async def test_a_large_real_history_is_read(simulated, agent, conversations):
    for path in conversations:
        simulated.load(path)
        expected = json.loads(path.read_text())["messages"][-3:]
        assert [m.content for m in await agent.messages(keep=3)] == [m["content"] for m in expected]


async def test_something_that_is_no_http_server_is_broken(session):
    async def greet(_reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(AgentBrokenError, match="does not speak HTTP"):
            await AgentApiClient(f"http://127.0.0.1:{port}", session=session).status()


async def test_a_prefix_in_the_url_is_kept(session, aiohttp_server):
    async def status(_request):
        return web.json_response({"status": "stable"})

    app = web.Application()
    app.router.add_get("/behind/a/proxy/status", status)
    server = await aiohttp_server(app)
    agent = AgentApiClient(f"http://127.0.0.1:{server.port}/behind/a/proxy/", session=session)
    assert (await agent.status()).status == "stable"


async def heard(agent, count):
    """The first `count` events: messages by content, statuses by word."""
    found = []
    async with aclosing(agent.events()) as events:
        async for event in events:
            found.append(event.decode().content if isinstance(event, UndecodedMessage) else event)
            if len(found) == count:
                return found
    return found


async def test_events_replay_every_message_and_the_status_then_go_on(simulated, agent):
    simulated.load([{"content": str(i)} for i in range(3)])
    assert await heard(agent, 4) == ["0", "1", "2", StatusChange("stable")]


async def test_events_speak_while_everything_else_hangs(simulated, agent):
    simulated.hang()
    simulated.add_message("agent", "working on it")
    assert "working on it" in await heard(agent, 3)
    simulated.release()


async def test_an_event_stream_that_the_server_ends_just_ends(simulated, agent):
    listening = asyncio.create_task(heard(agent, 100))
    await simulated.until(lambda: simulated.followers > 0 or bool(simulated.calls("events")))
    while not simulated.followers:
        await asyncio.sleep(0)
    simulated.conversation.followers.copy().pop().queue.put_nowait(None)
    assert await listening == ["", StatusChange("stable")]


@pytest.mark.parametrize("kind", ["html", "html_502", "redirect"])
async def test_an_event_stream_that_is_none_is_broken(simulated, agent, kind):
    params = {"location": "http://127.0.0.1:1/"} if kind == "redirect" else {}
    simulated.fault(kind, route="events", **params)
    with pytest.raises(AgentBrokenError, match="GET /events"):
        await heard(agent, 1)


async def test_an_event_stream_that_never_answers_is_busy(simulated, quick):
    simulated.fault("no_headers", route="events")
    with pytest.raises(AgentBusyError, match="GET /events"):
        await heard(quick, 1)


async def test_an_event_stream_of_a_stopped_server_is_gone(simulated, agent):
    await simulated.stop()
    with pytest.raises(AgentGoneError):
        await heard(agent, 1)


async def test_an_event_larger_than_the_cap_ends_the_stream(simulated, agent):
    simulated.load([{"content": "x" * EVENT_MAX_BYTES}])
    with pytest.raises(AgentBrokenError, match=r"(larger|longer) than"):
        await heard(agent, 1)


def update(number, **fields):
    return {"id": number, "role": "agent", "time": "t", "message": str(number)} | fields


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_malformed_update_costs_that_update_and_is_logged_once(session, aiohttp_server, size):
    padding = "x" * size
    updates = [
        json.dumps(update(1, more=padding)),
        '{"id":2,"role":"agent","message":"' + padding,
        json.dumps(update(3, time=None, more=padding)),
        json.dumps([padding]),
        json.dumps(update(5, message="\ud83d\ude00" + padding)),
    ]

    async def events(_request):
        body = "".join(f"event: message_update\ndata: {text}\n\n" for text in updates)
        return web.Response(text=body, content_type="text/event-stream")

    app = web.Application()
    app.router.add_get("/events", events)
    server = await aiohttp_server(app)
    agent = AgentApiClient(f"http://127.0.0.1:{server.port}", session=session)
    read = []
    with capture_logs() as logs:
        async with aclosing(agent.events()) as found:
            async for event in found:
                with suppress(NotAMessageError):
                    read.append(event.decode())
    assert [(message.id, message.content) for message in read] == [(1, "1"), (5, "\U0001f600" + padding)]
    assert [(line["event"], line["messages"]) for line in logs] == [("agent.messages_skipped", 1)]
    assert agent._skipped == 3
