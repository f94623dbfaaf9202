"""Faults that only AgentAPI's responses have: bodies that match no schema, and the 400 for a refused host."""

import asyncio
from collections.abc import Iterable
from typing import Final

from aiohttp import web

from agentd.simulator import serving
from agentd.simulator.agentapi import answers
from agentd.simulator.faults import Fault, SimulatorError

KINDS: Final = frozenset(
    {"html", "malformed", "empty", "null", "endless", "endless_string", "cut_body", "refuse_host"}
)

_BEGIN: Final = b'{"$schema":"http://localhost:3284/schemas/MessagesResponseBody.json","messages":['
_ENTRY: Final = b'{"id":0,"content":"' + b"x" * 8192 + b'","role":"agent","time":"2026-03-02T09:00:00Z"},'


async def inject(fault: Fault, request: web.Request, *, hosts: Iterable[str]) -> web.StreamResponse:
    """Answer with one of `KINDS`.

    html: a page, 200. malformed: invalid JSON, 200. empty: no body, 200. null: `{"messages":null}`.
    endless: an endless list. endless_string: an endless message. Both are sent as fast as the client reads.
    cut_body: the connection closes inside the list. refuse_host: the 400 of the Host check.
    """
    match fault.kind:
        case "html":
            return _answer(b"<!DOCTYPE html><html><body>Not what you asked for</body></html>\n", "text/html")
        case "malformed":
            return _answer(_BEGIN + b'{"id":0,"content":}]}\n', "application/json")
        case "empty":
            return _answer(b"", "application/json")
        case "null":
            return _answer(b'{"messages":null}\n', "application/json")
        case "endless":
            return await _endless(request, _BEGIN, _ENTRY * 8)
        case "endless_string":
            return await _endless(request, _BEGIN + b'{"id":0,"content":"', b"x" * 65_536)
        case "cut_body":
            return await _cut_body(request)
        case "refuse_host":
            return refused_host(hosts)
    raise SimulatorError(f"fault {fault.kind!r} does not apply to AgentAPI")


def refused_host(hosts: Iterable[str]) -> web.Response:
    """The answer of the Host check."""
    return answers.plain(400, f"Invalid host header. Allowed hosts: {', '.join(hosts)}")


def _answer(body: bytes, content_type: str) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": content_type})


async def _endless(request: web.Request, begin: bytes, block: bytes) -> web.StreamResponse:
    response = await _started(request, begin)
    while True:
        await response.write(block)
        await asyncio.sleep(0)


async def _cut_body(request: web.Request) -> web.StreamResponse:
    await _started(request, _BEGIN + _ENTRY[:100])
    serving.cut(request.transport)
    await serving.wait_until_cancelled()


async def _started(request: web.Request, begin: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(begin)
    return response
