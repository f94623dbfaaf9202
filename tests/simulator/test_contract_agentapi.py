"""The HTTP contract of AgentAPI as a table: a request, and the exact status and body of its answer."""

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
    body: str
    """`URL` stands for the server's URL."""
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


BUSY = "message can only be sent when the agent is waiting for user input"
HOSTS = "Invalid host header. Allowed hosts: localhost, 127.0.0.1, [::1]\n"
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
        invalid('{"message":"expected value to be one of \\"user, raw\\"","location":"body.type","value":"me"}'),
        '{"content":"x","type":"me"}',
    ),
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

    assert (answer.status, answer.text.replace(agent.url, "URL")) == (row.status, row.body)
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
