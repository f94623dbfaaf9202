"""How the local API answers: JSON, and errors as coderd writes them, `{"message": …, "detail"?: …}`."""

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from agentd.errors import AgentdError

__all__ = ["Json", "RefusedError", "as_json", "error", "reply"]

Json = Mapping[str, Any]


class RefusedError(AgentdError):
    """The daemon will not do what was asked; `status` is the HTTP status that says why."""

    def __init__(self, status: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


def as_json(value: object) -> bytes:
    """Compact JSON, without a line end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate in a hook's output becomes \udc80, which is how JSON writes it, and does not break the answer.
    return text.encode("utf-8", "backslashreplace")


def reply(value: Json, status: int = 200) -> web.Response:
    return web.Response(body=as_json(value) + b"\n", status=status, content_type="application/json")


def error(status: int, message: str, detail: str = "") -> web.Response:
    return reply({"message": message, "detail": detail} if detail else {"message": message}, status)
