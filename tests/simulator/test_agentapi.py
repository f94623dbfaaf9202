"""The answers of the simulated AgentAPI."""

import asyncio
import io
import json

import aiohttp
import pytest

from agentd.simulator.agentapi import SimulatedAgentApi

NOON = 1_772_442_000.12


def schema(agent, name):
    return f'"$schema":"{agent.url}/schemas/{name}.json"'


@pytest.fixture
async def agent():
    async with SimulatedAgentApi(now=lambda: NOON) as server:
        yield server


async def hangs(awaitable):
    """Whether `awaitable` has not returned after 50 ms."""
    task = asyncio.ensure_future(awaitable)
    done, _ = await asyncio.wait([task], timeout=0.05)
    task.cancel()
    return not done


async def test_status_and_messages_are_json_with_the_schema_first_and_without_html_escapes(agent, ask):
    status = await ask("GET", agent.url + "/status")
    assert (
        status.text
        == f'{{{schema(agent, "StatusResponseBody")},"status":"stable","agent_type":"claude","transport":"pty"}}\n'
    )
    assert status.headers["Link"] == '</schemas/StatusResponseBody.json>; rel="describedBy"'
    agent.add_message("user", "  <&>\u2028é \n")
    messages = await ask("GET", agent.url + "/messages?limit=1")
    assert messages.text == (
        f'{{{schema(agent, "MessagesResponseBody")},"messages":['
        '{"id":0,"content":"","role":"agent","time":"2026-03-02T09:00:00.12Z"},'
        '{"id":1,"content":"<&>\\u2028é","role":"user","time":"2026-03-02T09:00:00.12Z"}]}\n'
    )


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        ("0.10.0", {"status"}),
        ("0.10.1", {"status", "agent_type"}),
        ("0.11.8", {"status", "agent_type"}),
        ("0.12.0", {"status", "agent_type", "transport"}),
    ],
)
async def test_old_versions_omit_fields(ask, version, fields):
    async with SimulatedAgentApi(version=version) as agent:
        answer = json.loads((await ask("GET", agent.url + "/status")).body)

        assert set(answer) == fields | {"$schema"}


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:9", True),
        ("127.0.0.1:1", True),
        ("[::1]:3284", True),
        ("localhost.", False),
        ("0.0.0.0", False),  # noqa: S104 - a Host header, nothing is bound
        ("127.0.0.2", False),
        ("evil.example", False),
    ],
)
async def test_only_allowed_hosts_are_answered(agent, ask, host, allowed):
    answer = await ask("GET", agent.url + "/status", headers={"Host": host})

    assert answer.status == (200 if allowed else 400)
    if not allowed:
        assert answer.text == "Invalid host header. Allowed hosts: localhost, 127.0.0.1, ::1\n"
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


async def test_allowed_hosts_replace_the_default_and_a_star_allows_all(ask):
    async with SimulatedAgentApi(allowed_hosts=["agent.internal"]) as agent:
        assert (await ask("GET", agent.url + "/status")).status == 400
        assert (
            "https://agent.internal/schemas/"
            in (await ask("GET", agent.url + "/status", headers={"Host": "agent.internal"})).text
        )
    async with SimulatedAgentApi(allowed_hosts=["*"]) as agent:
        assert (await ask("GET", agent.url + "/status", headers={"Host": "any"})).status == 200
    async with SimulatedAgentApi(version="0.3.3") as agent:
        assert (await ask("GET", agent.url + "/status", headers={"Host": "any"})).status == 200


async def test_a_wrong_method_is_a_405_and_a_wrong_path_a_404(agent, ask):
    assert (await ask("HEAD", agent.url + "/status")).status == 405
    wrong = await ask("POST", agent.url + "/status")
    assert (wrong.status, wrong.body) == (405, b"")
    for path in ("/nope", "/status/", "/_sim/state"):
        missing = await ask("GET", agent.url + path)
        assert (missing.status, missing.text) == (404, "404 page not found\n")


PROBLEMS = [
    # body, content type, status, detail, first error
    ("{", "application/json", 400, "validation failed", "unexpected end of JSON input"),
    ('{"content":"x"}', "application/json", 422, "validation failed", "expected required property type to be present"),
    ('{"type":"user"}', "application/json", 422, "validation failed", "expected required property content to be present"),
    ('{"content":"x","type":"user","z":1}', "application/json", 422, "validation failed", "unexpected property"),
    ('{"content":"x","type":"z"}', "application/json", 422, "validation failed", None),
    ('{"content":1,"type":"user"}', "application/json", 422, "validation failed", "expected string"),
    ("[]", "application/json", 422, "validation failed", "expected object"),
    ("x=1", "application/x-www-form-urlencoded", 415, "validation failed",
     "unknown content type: application/x-www-form-urlencoded"),
    ('{"content":" \\n","type":"user"}', "application/json", 500, "unexpected error occurred",
     "failed to send message: message must not be empty"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "content_type", "status", "detail", "error"), PROBLEMS)
async def test_a_refused_message_is_answered_with_problem_json(
    agent, ask, body, content_type, status, detail, error
):
    answer = await ask("POST", agent.url + "/message", data=body, headers={"Content-Type": content_type})
    problem = json.loads(answer.body)

    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.status, problem["status"], problem["detail"]) == (status, status, detail)
    assert problem["errors"][0].get("message") == error
    assert list(problem)[:4] == ["$schema", "title", "status", "detail"]
    assert agent.received == []


async def test_a_body_of_more_than_a_mebibyte_is_a_413(agent, ask):
    assert (await ask("POST", agent.url + "/message", data=io.BytesIO(b"x" * ((1 << 20) + 1)))).status == 413


async def test_a_message_while_running_is_a_500_and_nothing_is_queued(agent, ask):
    agent.set_status("running")
    answer = await ask("POST", agent.url + "/message", json={"content": "x", "type": "user"})

    assert answer.text == (
        f'{{{schema(agent, "ErrorModel")},"title":"Internal Server Error","status":500,'
        '"detail":"unexpected error occurred","errors":[{"message":"failed to send message: message can only be sent'
        ' when the agent is waiting for user input"}]}\n'
    )
    raw = await ask("POST", agent.url + "/message", json={"content": "\x03", "type": "raw"})
    assert raw.status == 200
    assert agent.received == [{"content": "\x03", "type": "raw"}]
    assert len(agent.conversation.messages) == 1


async def test_in_pty_mode_a_send_blocks_readers_until_the_agent_runs(ask, fake_clock):
    async with SimulatedAgentApi(send_s=2.2, turn_s=5, sleep=fake_clock.sleep, reply=str.upper) as agent:
        sending = asyncio.create_task(
            ask("POST", agent.url + "/message", json={"content": "hi ", "type": "user"})
        )
        await agent.until(lambda: agent.calls("message"))
        await fake_clock.next_sleep()
        assert await hangs(ask("GET", agent.url + "/status"))
        assert await hangs(ask("GET", agent.url + "/messages"))
        assert (await ask("GET", agent.url + "/openapi.json")).status == 200
        await fake_clock.advance(2.2)

        assert json.loads((await sending).body)["ok"] is True
        assert json.loads((await ask("GET", agent.url + "/status")).body)["status"] == "running"
        await fake_clock.next_sleep()
        await fake_clock.advance(5)
        assert [message["content"] for message in agent.conversation.messages] == ["", "hi", "HI"]
        assert agent.conversation.status == "stable"


async def test_in_acp_mode_a_send_lasts_the_whole_turn_and_a_failed_one_uses_an_id(ask):
    async with SimulatedAgentApi(mode="acp") as agent:
        assert agent.conversation.messages == []
        sending = asyncio.create_task(
            ask("POST", agent.url + "/message", json={"content": "a", "type": "user"})
        )
        await agent.until(lambda: agent.conversation.status == "running")
        assert await hangs(ask("GET", agent.url + "/messages"))
        agent.add_message("agent", "half an ans")
        agent.fail_turn("prompt failed")
        answer = await sending
        assert (answer.status, json.loads(answer.body)["errors"]) == (
            500,
            [{"message": "failed to send message: prompt failed"}],
        )
        assert agent.add_message("agent", "later")["id"] == 2
        assert [message["id"] for message in agent.conversation.messages] == [0, 2]


async def test_a_message_is_delivered_after_its_client_has_disconnected(ask):
    async with SimulatedAgentApi() as agent:
        agent.hang()
        assert await hangs(ask("POST", agent.url + "/message", json={"content": "late", "type": "user"}))
        agent.release()
        await agent.until(lambda: agent.conversation.status == "running")

        assert agent.received == [{"content": "late", "type": "user"}]


async def test_hang_blocks_status_until_release(agent, ask):
    agent.hang()
    assert await hangs(ask("GET", agent.url + "/status"))
    agent.release()
    assert (await ask("GET", agent.url + "/status")).status == 200


async def test_a_rewritten_message_has_a_new_time_only_in_pty_mode():
    for mode, moved in (("pty", True), ("acp", False)):
        now = [NOON]
        agent = SimulatedAgentApi(mode=mode, now=lambda now=now: now[0])
        before = agent.add_message("agent", "one")
        now[0] += 1
        after = agent.rewrite_last("two")
        assert (after["id"], after["content"], after["time"] != before["time"]) == (
            before["id"],
            "two",
            moved,
        )


async def test_ids_collide_on_request_and_start_at_0_after_a_restart(agent, ask):
    for word in ("a", "b", "c"):
        agent.add_message("user", word)
    agent.collide_ids()
    agent.add_message("agent", "d")
    assert [message["id"] for message in agent.conversation.messages] == [0, 0, 1, 1, 2]
    port = agent.port
    await agent.restart()
    assert agent.port == port
    assert (
        json.loads((await ask("GET", agent.url + "/messages")).body)["messages"]
        == agent.conversation.messages
    )
    assert [message["id"] for message in agent.conversation.messages] == [0]


async def test_a_bogus_entry_is_appended_once(agent, ask):
    agent.bogus_tail()
    first, second = [
        json.loads((await ask("GET", agent.url + "/messages")).body)["messages"] for _ in range(2)
    ]

    assert first[-1] == {"id": 0, "content": "", "role": "", "time": "0001-01-01T00:00:00Z"}
    assert second == first[:-1]


async def test_recorded_transcripts_are_served_unchanged(agent, ask, conversations):
    for path in conversations:
        agent.load(path)
        served = json.loads((await ask("GET", agent.url + "/messages")).body)["messages"]
        assert served == json.loads(path.read_text())["messages"]


async def test_a_conversation_of_200_megabytes_is_encoded_in_pieces(agent, ask, wire):
    agent.load({"content": "x" * 10_000, "role": "user"} for _ in range(20_000))
    stream = await wire(agent.port, "GET", "/messages")
    assert "Transfer-Encoding: chunked" in await stream.head()
    size = int((await stream.reader.readline()), 16)
    assert size < 100_000
    # A client that stops reading stops the encoding, too.
    await asyncio.sleep(0)
    pending = [one.get_write_buffer_size() for one in agent._listener.transports()]
    assert max(pending) < 1 << 20


async def test_a_stopped_server_restarts_on_its_port_with_its_conversation(agent, ask):
    agent.add_message("user", "kept")
    await agent.stop()
    with pytest.raises(OSError):
        await ask("GET", agent.url + "/status")
    await agent.start()
    assert "kept" in (await ask("GET", agent.url + "/messages")).text


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        ("html", 200, b"<!DOCTYPE html>"),
        ("malformed", 200, b'{"$schema"'),
        ("empty", 200, b""),
        ("null", 200, b'{"messages":null}\n'),
        ("refuse_host", 400, b"Invalid host header."),
        ("html_502", 502, b"<html>"),
    ],
)
async def test_response_faults_that_answer(agent, ask, kind, status, body):
    agent.fault(kind, route="messages")
    assert (await ask("GET", agent.url + "/status")).status == 200
    answer = await ask("GET", agent.url + "/messages")
    assert answer.status == status
    assert answer.body.startswith(body)
    assert (await ask("GET", agent.url + "/messages")).status == 200


@pytest.mark.parametrize("kind", ["eof", "reset_before_body", "reset_after_body", "cut_body"])
async def test_faults_that_break_the_connection(agent, wire, kind):
    agent.fault(kind)
    stream = await wire(agent.port, "GET", "/messages")
    try:
        rest = await stream.rest()
    except ConnectionResetError:
        rest = b""
        assert kind.startswith("reset")
    assert not rest.endswith(b"0\r\n\r\n")
    assert rest.startswith(b"HTTP/1.1 200") == (kind == "cut_body")


@pytest.mark.parametrize("kind", ["endless", "endless_string"])
async def test_an_endless_body_ends_when_its_reader_disconnects(agent, wire, kind):
    agent.fault(kind)
    stream = await wire(agent.port, "GET", "/messages")
    await stream.head()
    assert len(await stream.exactly(5_000_000)) == 5_000_000
    stream.writer.transport.abort()
    while agent._listener.transports():
        await asyncio.sleep(0)


async def test_an_upload_is_answered_with_a_path(agent, ask):
    form = aiohttp.FormData()
    form.add_field("file", b"content", filename="notes.txt")
    answer = json.loads((await ask("POST", agent.url + "/upload", data=form)).body)
    assert answer["ok"] is True
    assert answer["filePath"].endswith("/notes.txt")
    other = aiohttp.FormData()
    other.add_field("other", b"content", filename="x")
    assert (await ask("POST", agent.url + "/upload", data=other)).status == 422
    big = aiohttp.FormData()
    big.add_field("file", io.BytesIO(b"x" * ((10 << 20) + 1)), filename="x")
    assert (await ask("POST", agent.url + "/upload", data=big)).status == 400
