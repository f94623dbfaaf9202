"""`POST /message`. It holds a lock, for which `/status` and `/messages` wait."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from agentd.simulator import gojson
from agentd.simulator.agentapi import answers
from agentd.simulator.agentapi.conversation import ASCII_BLANKS

MAX_BODY_BYTES: Final = 1 << 20
NOT_WAITING: Final = "message can only be sent when the agent is waiting for user input"
EMPTY: Final = "message must not be empty"


class SendLock:
    """The lock that a send holds and that `/status` and `/messages` wait for.

    `hang()` holds it without a send.
    """

    def __init__(self) -> None:
        self._free = asyncio.Event()
        self._free.set()
        self._sending = False
        self._hung = False

    async def free(self) -> None:
        """Wait until no send is in progress."""
        await self._free.wait()

    def hang(self) -> None:
        self._hung = True
        self._update()

    def release(self) -> None:
        self._hung = False
        self._update()

    async def __aenter__(self) -> Self:
        while not self._free.is_set():
            await self._free.wait()
        self._sending = True
        self._update()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sending = False
        self._update()

    def _update(self) -> None:
        if self._sending or self._hung:
            self._free.clear()
        else:
            self._free.set()


class SendError(Exception):
    """The agent rejected the message. The text is `errors[0].message` of the answer."""


async def serve(
    request: web.Request, body: bytes, send: Callable[[str, str], Awaitable[None]]
) -> web.Response:
    """Validate the request as huma does, then call `send(content, type)`."""
    parsed = _parse(request, body)
    if isinstance(parsed, web.Response):
        return parsed
    content, kind = parsed
    try:
        await send(content, kind)
    except SendError as exc:
        return answers.problem(
            request,
            500,
            "Internal Server Error",
            "unexpected error occurred",
            [{"message": f"failed to send message: {exc}"}],
        )
    return answers.reply(request, "MessageResponseBody", {"ok": True})


def trimmed(content: str) -> str:
    """`content` without ASCII whitespace at its ends, as AgentAPI sends and stores it."""
    return content.strip(ASCII_BLANKS)


def _parse(request: web.Request, body: bytes) -> tuple[str, str] | web.Response:
    if len(body) > MAX_BODY_BYTES:
        return answers.problem(
            request,
            413,
            "Request Entity Too Large",
            f"request body is too large limit={MAX_BODY_BYTES} bytes",
        )
    if not body:
        return answers.problem(request, 400, "Bad Request", "request body is required")
    kind = request.headers.get("Content-Type", "application/json").partition(";")[0].strip()
    if kind != "application/json" and not kind.endswith("+json"):
        return answers.problem(
            request,
            415,
            "Unsupported Media Type",
            "validation failed",
            [{"message": f"unknown content type: {kind}", "location": "body", "value": gojson.text_of(body)}],
        )
    try:
        value = gojson.only_value(gojson.text_of(body))
    except gojson.GoSyntaxError as exc:
        return answers.problem(
            request,
            400,
            "Bad Request",
            "validation failed",
            [{"message": str(exc), "location": "body", "value": gojson.text_of(body)}],
        )
    errors = _validation_errors(value)
    if errors:
        return answers.problem(request, 422, "Unprocessable Entity", "validation failed", errors)
    return str(value.field("content")), str(value.field("type"))


def _validation_errors(value: Any) -> list[dict[str, object]]:  # noqa: ANN401 - any JSON value
    if not isinstance(value, gojson.Pairs):
        return [{"message": "expected object", "location": "body", "value": gojson.plain(value)}]
    plain = gojson.plain(value)
    fields = dict(value)
    found: list[dict[str, object]] = [
        {"message": f"expected required property {name} to be present", "location": "body", "value": plain}
        for name in ("content", "type")
        if name not in fields
    ]
    for name, item in fields.items():
        if name == "$schema":
            continue
        if name not in ("content", "type"):
            found.append({"message": "unexpected property", "location": f"body.{name}", "value": plain})
        elif gojson.kind_of(item) != "string":
            found.append(
                {"message": "expected string", "location": f"body.{name}", "value": gojson.plain(item)}
            )
        elif name == "type" and item not in ("user", "raw"):
            found.append({"location": "body.type", "value": item})  # the real one has no message either
    return found
