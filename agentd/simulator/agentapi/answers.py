"""Responses in the format of AgentAPI's web framework, huma."""

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from aiohttp import web

from agentd.simulator import gojson
from agentd.simulator.agentapi.conversation import Message

CHUNK_BYTES: Final = 1 << 16
SMALL_BYTES: Final = 2048
"""Go's server sends a Content-Length for bodies up to this size, and chunks for larger ones."""

_CORS_METHODS: Final = frozenset({"GET", "POST", "PUT", "DELETE", "OPTIONS"})
_CORS_HEADERS: Final = frozenset({"accept", "authorization", "content-type", "x-csrf-token", "origin"})


def reply(request: web.Request, schema: str, fields: dict[str, object]) -> web.Response:
    """200 with `$schema` as the first field, not HTML-escaped."""
    body = gojson.encode({"$schema": schema_url(request, schema), **fields}, escape_html=False)
    return web.Response(body=body, headers={"Content-Type": "application/json", "Link": _link(schema)})


def document(value: object, content_type: str) -> web.Response:
    """The OpenAPI document or a schema of it: no `$schema`, and no newline at the end.

    JSON is also valid YAML.
    """
    return web.Response(
        body=gojson.dumps(value, escape_html=False).encode(), headers={"Content-Type": content_type}
    )


def problem(
    request: web.Request, status: int, title: str, detail: str, errors: Iterable[dict[str, object]] = ()
) -> web.Response:
    """An error as `application/problem+json`. Each of `errors` is {message, location?, value?}."""
    fields: dict[str, object] = {
        "$schema": schema_url(request, "ErrorModel"),
        "title": title,
        "status": status,
        "detail": detail,
    }
    if errors := list(errors):
        fields["errors"] = errors
    return web.Response(
        status=status,
        body=gojson.encode(fields, escape_html=False),
        headers={"Content-Type": "application/problem+json", "Link": _link("ErrorModel")},
    )


def plain(status: int, text: str) -> web.Response:
    """Plain text, as Go's `http.Error` sends it."""
    return web.Response(
        status=status,
        body=f"{text}\n".encode(),
        headers={"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"},
    )


async def messages(request: web.Request, entries: Iterable[Message]) -> web.StreamResponse:
    """The whole conversation, encoded and sent in pieces, because it may have 200 MB."""
    pieces = _encoded(schema_url(request, "MessagesResponseBody"), entries)
    first = next(pieces)
    headers = {"Content-Type": "application/json", "Link": _link("MessagesResponseBody")}
    second = next(pieces, None)
    if second is None and len(first) <= SMALL_BYTES:
        return web.Response(body=first, headers=headers)
    response = web.StreamResponse(headers=headers)
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(first)
    if second is not None:
        await response.write(second)
    for piece in pieces:
        await response.write(piece)
    await response.write_eof()
    return response


def is_preflight(request: web.Request) -> bool:
    """Whether a browser asks if its page may send the request. The answer is 200, whatever the path is."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def cors_headers(request: web.Request, origins: Collection[str]) -> dict[str, str]:
    """The headers that go-chi/cors adds. `Vary` is in every answer, the others need an allowed origin."""
    preflight = is_preflight(request)
    vary = ("Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers")
    headers = {"Vary": ", ".join(vary) if preflight else vary[0]}
    origin = request.headers.get("Origin", "")
    asked = request.headers.get("Access-Control-Request-Method", request.method).upper()
    if not origin or not {"*", origin.lower()} & set(origins) or asked not in _CORS_METHODS:
        return headers
    headers["Access-Control-Allow-Origin"] = "*" if "*" in origins else origin
    headers["Access-Control-Allow-Credentials"] = "true"
    if not preflight:
        return headers | {"Access-Control-Expose-Headers": "Link"}
    names = [name.strip() for name in request.headers.get(vary[2], "").split(",") if name.strip()]
    if not {name.lower() for name in names} <= _CORS_HEADERS:
        return {"Vary": headers["Vary"]}
    if names:
        headers["Access-Control-Allow-Headers"] = ", ".join(name.title() for name in names)
    return headers | {"Access-Control-Allow-Methods": asked, "Access-Control-Max-Age": "300"}


def schema_url(request: web.Request, schema: str) -> str:
    """The URL of a schema as huma builds it: https for every host except the two local names."""
    host = request.headers.get("Host", "")
    scheme = "http" if hostname(host) in ("localhost", "127.0.0.1") else "https"
    return f"{scheme}://{host}/schemas/{schema}.json"


def hostname(host: str) -> str:
    """A Host header without its port and brackets, in lower case: `[::1]:80` → `::1`."""
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _link(schema: str) -> str:
    return f'</schemas/{schema}.json>; rel="describedBy"'


def _encoded(schema: str, entries: Iterable[Message]) -> Iterator[bytes]:
    buffer = bytearray(f'{{"$schema":{gojson.dumps(schema)},"messages":['.encode())
    separator = b""
    for entry in entries:
        buffer += separator
        buffer += gojson.dumps(entry, escape_html=False).encode()
        separator = b","
        if len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer)
            buffer.clear()
    buffer += b"]}\n"
    yield bytes(buffer)
