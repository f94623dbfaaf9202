"""The HTTP contract of AgentAPI as a table: a request, and the exact status and body of its answer."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from agentd.simulator.agentapi import SimulatedAgentApi

NOON = 1_772_442_000.0
PROBLEM = "application/problem+json"
PLAIN = "text/plain; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True)
class Row:
    method: str
    path: str
    status: int
    kind: str | None
    body: str | None
    """`URL` stands for the server's URL. None for any JSON value other than null."""
    sent: str | None = None
    version: str = "0.12.1"
    given: str = ""
    host: str | None = None

    def __str__(self):
        return f"{self.version} {self.given} {self.method} {self.path} {self.sent or ''} -> {self.status}"


def problem(status, title, detail, *errors):
    listed = f',"errors":[{",".join(errors)}]' if errors else ""
    return f'{{"$schema":"URL/schemas/ErrorModel.json","title":"{title}","status":{status},"detail":"{detail}"{listed}}}\n'


def not_sent(why):
    return problem(
        500,
        "Internal Server Error",
        "unexpected error occurred",
        f'{{"message":"failed to send message: {why}"}}',
    )


def invalid(*errors):
    return problem(422, "Unprocessable Entity", "validation failed", *errors)


def unread(why, sent):
    error = f'{{"message":"{why}","location":"body","value":"{sent}"}}'
    return problem(400, "Bad Request", "validation failed", error)


BUSY = "message can only be sent when the agent is waiting for user input"
HOSTS = "Invalid host header. Allowed hosts: localhost, 127.0.0.1, ::1\n"
HTML = "text/html; charset=utf-8"
PAGE = "<!DOCTYPE html><html><head><title>AgentAPI (simulated)</title></head><body></body></html>\n"
STATUS = '{"$schema":"URL/schemas/StatusResponseBody.json","status":"%s"%s}\n'
HELLO = '{"content":"hello","type":"user"}'
NEEDS = '{"message":"expected required property %s to be present","location":"body","value":%s}'

ROWS = [
    Row("GET", "/status", 200, JSON, STATUS % ("stable", ',"agent_type":"claude","transport":"pty"')),
    Row("GET", "/status", 200, JSON, STATUS % ("stable", ',"agent_type":"claude"'), version="0.11.8"),
    Row("GET", "/status", 200, JSON, STATUS % ("stable", ""), version="0.10.0"),
    Row("GET", "/status", 200, JSON, STATUS % ("running", ""), version="0.10.0", given="running"),
    Row(
        "GET", "/messages?limit=1", 200, JSON,
        '{"$schema":"URL/schemas/MessagesResponseBody.json","messages":[{"id":0,"content":"<&>","role":"agent",'
        '"time":"2026-03-02T09:00:00Z"}]}\n', given="says <&>",
    ),
    Row("POST", "/message", 200, JSON, '{"$schema":"URL/schemas/MessageResponseBody.json","ok":true}\n', HELLO),
    Row("POST", "/message", 500, PROBLEM, not_sent(BUSY), HELLO, given="running"),
    Row("POST", "/message", 500, PROBLEM, not_sent("message must not be empty"), '{"content":" ","type":"user"}'),
    Row("POST", "/message", 422, PROBLEM, invalid(NEEDS % ("type", '{"content":"x"}')), '{"content":"x"}'),
    Row(
        "POST", "/message", 422, PROBLEM,
        invalid('{"location":"body.type","value":"me"}'),
        '{"content":"x","type":"me"}',
    ),
    Row("POST", "/message", 400, PROBLEM, problem(400, "Bad Request", "request body is required"), ""),
    Row("POST", "/message", 400, PROBLEM, unread("unexpected end of JSON input", " "), " "),
    Row("POST", "/message", 400, PROBLEM, unread("unexpected end of JSON input", "{"), "{"),
    Row("POST", "/message", 400, PROBLEM, unread("unexpected end of JSON input", "tru"), "tru"),
    Row("POST", "/message", 400, PROBLEM, unread("invalid character 'x' after top-level value", "{} x"), "{} x"),
    Row("GET", "/openapi.json", 200, "application/vnd.oai.openapi+json", None),
    Row("GET", "/openapi.yaml", 200, "application/vnd.oai.openapi+yaml", None),
    Row("POST", "/openapi.yaml", 405, None, ""),
    Row("GET", "/schemas/StatusResponseBody.json", 200, JSON, None),
    Row("GET", "/schemas/Nothing.json", 200, JSON, "null"),
    Row("POST", "/schemas/StatusResponseBody.json", 405, None, ""),
    Row("HEAD", "/status", 405, None, ""),
    Row("POST", "/status", 405, None, ""),
    Row("GET", "/message", 405, None, ""),
    Row("GET", "/nothing", 404, PLAIN, "404 page not found\n"),
    Row("GET", "/status/", 404, PLAIN, "404 page not found\n"),
    Row("POST", "/upload", 404, PLAIN, "404 page not found\n", version="0.9.0"),
    Row("GET", "/status", 400, PLAIN, HOSTS, host="evil.example"),
    Row("GET", "/status", 400, PLAIN, HOSTS, host="127.0.0.2"),
    Row("GET", "/", 307, None, ""),
    Row("GET", "/docs", 200, HTML, PAGE),
    Row("GET", "/chat/embed", 200, HTML, PAGE),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_the_answer_has_this_status_and_body(row, ask):
    async with SimulatedAgentApi(version=row.version, now=lambda: NOON) as agent:
        if row.given == "running":
            agent.set_status("running")
        elif row.given:
            agent.rewrite_last(row.given.removeprefix("says "))
        headers = {"Content-Type": "application/json"} | ({"Host": row.host} if row.host else {})
        answer = await ask(row.method, agent.url + row.path, headers=headers, data=row.sent)

    text = answer.text.replace(agent.url, "URL")
    if row.body is None:
        assert (answer.status, bool(json.loads(text))) == (row.status, True)
    else:
        assert (answer.status, text) == (row.status, row.body)
    assert answer.headers.get("Content-Type") == row.kind


async def test_an_uploaded_file_exists_until_the_server_stops(ask):
    async with SimulatedAgentApi() as agent:
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("file", b"\x00binary\xff", filename="../../etc/notes.txt")
        path = Path(
            (await ask("POST", agent.url + "/upload", data=form)).text.split('"filePath":"')[1].split('"')[0]
        )
        assert path.read_bytes() == b"\x00binary\xff"
        assert path.name == "notes.txt"
        assert len(path.parent.name) == 16
        assert path.parent.parent.name.startswith("agentapi-uploads-")
        again = aiohttp.FormData()
        again.add_field("file", b"\x00binary\xff", filename="..")
        other = (await ask("POST", agent.url + "/upload", data=again)).text
        assert f'"filePath":"{path.parent}/file"' in other
    assert not path.parent.parent.exists()


async def test_the_whole_screen_is_sent_at_each_change(wire):
    async with SimulatedAgentApi() as agent:
        agent.rewrite_last("<first>")
        stream = await wire(agent.port, "GET", "/internal/screen")
        assert b'event: screen\ndata: {"screen":"\\u003cfirst\\u003e"}\n\n' in await stream.until(b"\n\n\r\n")
        agent.add_message("user", "typed")
        assert b'{"screen":"\\u003cfirst\\u003e"}' in await stream.until(b"\n\n\r\n")
        agent.add_message("agent", "second")
        assert b'{"screen":"second"}' in await stream.until(b"\n\n\r\n")
        assert agent.calls("screen")
        await agent.stop()
        assert (await stream.rest()).endswith(b"0\r\n\r\n")
        assert not agent.conversation.watchers


NAMED = ["/status", "/messages", "/message", "/upload", "/nothing"]


@pytest.mark.parametrize("path", NAMED)
async def test_the_schema_that_an_answer_names_exists(ask, path):
    async with SimulatedAgentApi() as agent:
        method = "POST" if path in ("/message", "/upload") else "GET"
        answer = await ask(method, agent.url + path, headers={"Content-Type": "application/json"})
        if "Link" in answer.headers:
            assert path != "/nothing"
            named = answer.headers["Link"].partition(">")[0].removeprefix("<")
            assert json.loads(answer.text)["$schema"].endswith(named)
            schema = json.loads((await ask("GET", agent.url + named)).text)
            assert set(schema["required"]) <= json.loads(answer.text).keys() <= schema["properties"].keys()


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("GET", {}, {"Vary": "Origin"}),
        ("GET", {"Origin": "https://evil.example"}, {"Vary": "Origin"}),
        (
            "GET",
            {"Origin": "http://localhost:3284"},
            {
                "Vary": "Origin",
                "Access-Control-Allow-Origin": "http://localhost:3284",
                "Access-Control-Expose-Headers": "Link",
                "Access-Control-Allow-Credentials": "true",
            },
        ),
        (
            "OPTIONS",
            {
                "Origin": "http://localhost:3284",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "content-type",
            },
            {
                "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
                "Access-Control-Allow-Origin": "http://localhost:3284",
                "Access-Control-Allow-Methods": "POST",
                "Access-Control-Allow-Headers": "Content-Type",
                "Access-Control-Allow-Credentials": "true",
                "Access-Control-Max-Age": "300",
            },
        ),
        (
            "OPTIONS",
            {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
            {"Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"},
        ),
        (
            "OPTIONS",
            {
                "Origin": "http://localhost:3284",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "x-other",
            },
            {"Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"},
        ),
    ],
)
@pytest.mark.parametrize("path", ["/status", "/message", "/nothing"])
async def test_an_answer_has_the_cors_headers_of_its_request(ask, path, method, headers, expected):
    async with SimulatedAgentApi() as agent:
        answer = await ask(method, agent.url + path, headers=headers)
        refused = await ask(method, agent.url + path, headers={**headers, "Host": "evil.example"})
    if method == "OPTIONS":
        assert (answer.status, answer.body) == (200, b"")
    assert {
        name: value for name, value in answer.headers.items() if name == "Vary" or name.startswith("Access-")
    } == expected
    assert (refused.status, refused.headers.get("Vary")) == (400, None)


UNBUFFERED = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
    "X-Accel-Buffering": "no",
    "X-Proxy-Buffering": "no",
    "Connection": "keep-alive",
}


@pytest.mark.parametrize("path", ["/events", "/internal/screen"])
@pytest.mark.parametrize(("version", "expected"), [("0.12.1", UNBUFFERED), ("0.7.0", {})])
async def test_a_stream_forbids_proxies_to_buffer_it(wire, path, version, expected):
    async with SimulatedAgentApi(version=version) as agent:
        head = await (await wire(agent.port, "GET", path)).head()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    assert fields["Content-Type"] == "text/event-stream"
    assert fields["Vary"] == "Origin"
    assert {name: fields[name] for name in UNBUFFERED if name in fields} == expected


@pytest.mark.parametrize("mode", ["pty", "acp"])
async def test_a_turn_begins_with_the_status_and_then_the_message_of_the_user(ask, wire, mode):
    async with SimulatedAgentApi(mode=mode) as agent:
        stream = await wire(agent.port, "GET", "/events")
        await stream.until(b"status_change")
        await stream.until(b"\n\n")
        posted = asyncio.create_task(
            ask("POST", agent.url + "/message", json={"content": "go", "type": "user"})
        )
        turn = await stream.until(b'"message":"go"')
        agent.set_status("stable")
        await posted
    assert turn.index(b'"status":"running"') < turn.index(b"message_update")


async def test_equal_answers_to_equal_prompts_leave_the_status_at_running(ask):
    """Measured at v0.10.0, v0.12.1 and HEAD."""
    async with SimulatedAgentApi(reply=lambda _: "SAME ANSWER") as agent:

        async def say(text):
            await ask("POST", agent.url + "/message", json={"content": text, "type": "user"})
            await asyncio.gather(*agent._turns._tasks)
            return agent.conversation.status, [one["content"] for one in agent.conversation.messages[1:]]

        assert await say("go") == ("stable", ["go", "SAME ANSWER"])
        assert await say("go") == ("stable", ["go", "SAME ANSWER", "go", ""])
        assert await say("go") == ("running", ["go", "SAME ANSWER", "go", "", "go"])
        assert [one["content"] for one in agent.conversation.messages if one["id"] == 4] == [""]


@pytest.mark.parametrize(
    ("mode", "turns", "last", "status"),
    [
        ("pty", [("a", "SAME"), ("b", "SAME")], "b", "running"),
        ("pty", [("a", "SAME"), ("b", "SAME and more")], "SAME and more", "stable"),
        ("pty", [("a", "one\ntwo"), ("a", "one\nthree")], "three", "stable"),
        ("pty", [("a", "one\ntwo"), ("b", "one\nthree")], "one\nthree", "stable"),
        ("acp", [("a", "SAME"), ("a", "SAME"), ("a", "SAME")], "SAME", "stable"),
    ],
)
async def test_an_answer_is_what_the_screen_did_not_have(ask, mode, turns, last, status):
    answers = iter([answer for _, answer in turns])
    async with SimulatedAgentApi(mode=mode, reply=lambda _: next(answers)) as agent:
        for prompt, _ in turns:
            await ask("POST", agent.url + "/message", json={"content": prompt, "type": "user"})
            await asyncio.gather(*agent._turns._tasks)
        assert agent.conversation.messages[-1]["content"] == last
        assert agent.conversation.status == status
