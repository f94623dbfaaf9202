"""Hostile answers: JSON of every wrong shape, broken HTTP, and event streams that a claim stream must survive."""

import itertools
import json
from collections.abc import Iterator

DEEP = "[" * 50_000
HUGE_INT = "9" * 5_000

WRONG_VALUES = [
    "null", "true", "7", "-1", "1e999", "-0", "NaN", HUGE_INT, '""', '"x"', "[]", "[1]", "[null]", "[[]]", "{}",
    '{"message":7}', '{"a":{"a":{"a":{}}}}', '"\\ud800"', '"\\u0000"', DEEP, '"' + "y" * 1_000_000 + '"',
]  # fmt: skip

WHOLE_BODIES = [
    b"", b" ", b"\xef\xbb\xbf{}", b"{", b"}", b"\xff\xfe\x00", b"\x00" * 1000, b'{"a":1,}', b"{'a':1}", b'{"a":1}{"b":2}',
    b"<html>not what was asked for</html>", b'{"a":"\xc3\x28"}', DEEP.encode(), b'{"a":' * 20_000, b"9" * 100_000,
]  # fmt: skip

STATUSES = [
    200,
    201,
    204,
    301,
    307,
    400,
    401,
    403,
    404,
    409,
    413,
    418,
    422,
    429,
    431,
    500,
    502,
    503,
    504,
    599,
    999,
]

CODERD_FIELDS = ["message", "detail", "validations", "agent_id", "session_token", "workspace_id", "reason"]
AGENTAPI_FIELDS = [
    "status",
    "agent_type",
    "transport",
    "messages",
    "id",
    "content",
    "role",
    "time",
    "$schema",
]


def http(status: int, body: bytes, *headers: str, content_type: str = "application/json") -> bytes:
    lines = [
        f"HTTP/1.1 {status} Reason",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def json_answers(fields: list[str], statuses: list[int]) -> Iterator[bytes]:
    """Each field with each wrong value; the statuses take turns."""
    turn = itertools.cycle(statuses)
    for field in fields:
        for value in WRONG_VALUES:
            yield http(next(turn), f'{{"{field}":{value}}}'.encode("utf-8", "surrogatepass"))
    for body in WHOLE_BODIES:
        yield http(next(turn), body)


def message_answers() -> Iterator[bytes]:
    """Lists of messages in which one is malformed."""
    good = '{"id":0,"content":"hello","role":"user","time":"2026-03-02T09:00:00Z"}'
    for field, value in itertools.product(["id", "content", "role", "time"], WRONG_VALUES):
        fields = {
            "id": "1",
            "content": '"x"',
            "role": '"agent"',
            "time": '"2026-03-02T09:00:01Z"',
            field: value,
        }
        bad = "{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}"
        yield http(200, f'{{"messages":[{good},{bad}]}}'.encode())
    for value in WRONG_VALUES:
        yield http(200, f'{{"messages":[{good},{value}]}}'.encode())


def broken_http() -> list[bytes]:
    """Answers that are hardly HTTP, and headers that no server should send."""
    ok = b"HTTP/1.1 200 OK\r\n"
    retry = ["-1", "1e9", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "soon", "\xe9", "0x10", ""]
    locations = [
        "/same",
        "//evil.example/",
        "http://[::1",
        "javascript:1",
        "http://u:p@127.0.0.1:1/x?token=1",
        "",
    ]
    return [
        b"",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/0.9 what\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 -200 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nwhat",
        ok + b"Content-Length: -1\r\n\r\n{}",
        ok + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        ok + b"Content-Length: 99999999999999999999\r\n\r\n{}",
        ok + b"Content-Length: 0x2\r\n\r\n{}",
        ok + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
        ok + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
        ok + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
        ok + b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        ok + b"Transfer-Encoding: gzip\r\n\r\n{}",
        ok + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        ok + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",
        ok + b"no colon here\r\n\r\n{}",
        ok + b": empty name\r\n\r\n{}",
        ok + b" folded: start\r\n\r\n{}",
        ok + b"X: a\r\n folded\r\n\r\n{}",
        ok + b"X: \x00\r\n\r\n{}",
        ok + b"X: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
        ok + b"X: " + b"y" * 200_000 + b"\r\n\r\n{}",
        ok + b"".join(b"X-%d: y\r\n" % n for n in range(5_000)) + b"\r\n{}",
        ok + b"Set-Cookie: " + b"a=b; " * 1_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
        ok + b"Content-Type: application/json\r\n\r\n" + b'{"message":"' + b"z" * 5_000 + b"...",
        ok + b"Content-Type: text/event-stream\r\n\r\ndata: " + b"z" * 5_000 + b"...",
        ok + b"Content-Type: text/event-stream\r\n\r\n" + b":\n" * 3_000 + b"...",
        b"HTTP/1.1 200 " + b"R" * 100_000 + b"\r\n\r\n{}",
        *[http(429, b"{}", f"Retry-After: {value}") for value in retry],
        *[http(307, b"", f"Location: {value}") for value in locations],
    ]  # fmt: skip


def claim_streams(workspace_id: str) -> list[bytes]:
    """Event streams that hold no claim of this workspace."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    other = json.dumps(
        {"workspace_id": "00000000-0000-0000-0000-000000000001", "reason": "prebuild_claimed"}
    ).encode()
    ids = [
        b"7 ",
        b" 7",
        b"7\t",
        b"\t",
        b"7\x0b",
        b"7\x0c",
        b"   ",
        b"\xff\xfe",
        b"\x00",
        b"x" * 20_000,
        b"\r",
        "é".encode(),
        b"7\x7f",
    ]
    datas = [
        *[value.encode("utf-8", "surrogatepass") for value in WRONG_VALUES],
        *[body for body in WHOLE_BODIES if b"\n" not in body],
        *[f'{{"workspace_id":{value},"reason":"prebuild_claimed"}}'.encode("utf-8", "surrogatepass") for value in WRONG_VALUES],
        *[f'{{"workspace_id":"{workspace_id}","reason":{value}}}'.encode("utf-8", "surrogatepass") for value in WRONG_VALUES],
        other,
    ]  # fmt: skip
    names = [b"reinit", b"error", b"", b"ping", b"\xff", b"reinit ", b"R" * 10_000]
    return [
        *[head + b"id: " + each + b"\nevent: ping\n\n" for each in ids],
        *[head + b"data: " + each + b"\n\n" for each in datas],
        *[head + b"event: " + each + b"\ndata: " + other + b"\n\n" for each in names],
        *[head + b"retry: " + each + b"\n\n" for each in (b"-1", b"1e9", b"99999999999999999999999", b"0", b"\xd9\xa1")],
        head + b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n",
        head + b"data" * 100_000 + b"\n\n",
        head + b"data: x\n" * 50_000 + b"\n",
        head + b"\r" * 100_000,
    ]  # fmt: skip


def requests_to_the_daemon(host: str) -> list[bytes]:
    """Malformed requests for the local API."""
    line = b"Host: " + host.encode() + b"\r\n"
    post = b"POST /v1/reports HTTP/1.1\r\n" + line + b"Content-Type: application/json\r\n"
    bodies = [
        *[body for body in WHOLE_BODIES if len(body) < 60_000],
        *[f'{{"state":{value}}}'.encode("utf-8", "surrogatepass") for value in WRONG_VALUES],
        *[f'{{"state":"idle","message":{value}}}'.encode("utf-8", "surrogatepass") for value in WRONG_VALUES],
    ]
    routes = [b"/v1/messages", b"/v1/events", b"/v1/reports"]
    return [
        b"\r\n\r\n", b"GET\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n" + line + line + b"\r\n",
        b"GET /v1/status HTTP/1.1\r\n" + line + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + line + b"\r\n",
        b"GET /%00%ff/../../etc/passwd HTTP/1.1\r\n" + line + b"\r\n",
        b"GET /v1/claims/../../x HTTP/1.1\r\n" + line + b"\r\n",
        b"DELETE /v1/claims/%0a HTTP/1.1\r\n" + line + b"\r\n",
        post + b"Content-Length: -5\r\n\r\n", post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        post + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n", post + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000_000,
        post + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        *[
            b"POST " + route + b" HTTP/1.1\r\n" + line + b"Content-Type: application/json\r\nContent-Length: "
            + str(len(body)).encode() + b"\r\n\r\n" + body
            for route in routes for body in bodies
        ],
    ]  # fmt: skip


CONNECTIONS = {
    "idle connections to the TCP port": 1_100,
    "idle connections to the unix socket": 200,
    "posts of 1 MB": 400,
}
"""Attacks by number, by the name under which docs/guarantees.md counts them."""


def series(workspace_id: str = "", host: str = "agentd") -> dict[str, list[bytes]]:
    """The inputs of each attack, by the name under which docs/guarantees.md counts them."""
    agentapi = [*json_answers(AGENTAPI_FIELDS, STATUSES), *message_answers(), *broken_http()]
    return {
        "answers to the claim stream": [
            *claim_streams(workspace_id),
            *json_answers(CODERD_FIELDS, [200, 400, 401, 403, 404, 500, 503]),
            *broken_http(),
        ],
        "answers to an upload": [
            *json_answers(CODERD_FIELDS, [status for status in STATUSES if status >= 300]),
            *broken_http(),
        ],
        "answers of AgentAPI to `/status`": agentapi,
        "answers of AgentAPI to `/messages`": agentapi,
        "requests over the unix socket": requests_to_the_daemon(host),
        "requests over TCP": requests_to_the_daemon(host),
    }
