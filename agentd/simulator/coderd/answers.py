"""Responses in coderd's format, and the parser of ids."""

import re
import uuid
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from agentd.simulator import gojson

JSON: Final = "application/json; charset=utf-8"
NOT_FOUND: Final = "Resource not found or you do not have access to this resource"


def reply(status: int, value: object) -> web.Response:
    """A response with `value` as JSON. The body for None is `null` and a newline."""
    return web.Response(status=status, body=gojson.encode(value), headers={"Content-Type": JSON})


def error(
    status: int, message: str, *, detail: str = "", validations: Sequence[tuple[str, str]] = ()
) -> web.Response:
    """An error as `codersdk.Response`.

    `validations` are pairs of field and detail. Empty parts are omitted.
    """
    value: dict[str, object] = {"message": message}
    if detail:
        value["detail"] = detail
    if validations:
        value["validations"] = [{"field": name, "detail": text} for name, text in validations]
    return reply(status, value)


def route_not_found() -> web.Response:
    return error(404, "Route not found.")


def not_found() -> web.Response:
    """The 404 for a missing object, and for an object that the caller may not access."""
    return error(404, NOT_FOUND)


def build_is_active() -> web.Response:
    """The 409 of a request for a build while another one is in progress."""
    active = "A workspace build is already active."
    return error(409, active, detail=active)


def body_too_large(limit: int) -> web.Response:
    """The 413 of E4 for a JSON body of more than `limit` bytes."""
    return error(413, "Request body too large.", detail=f"Maximum request body size is {limit} bytes.")


def internal(detail: str) -> web.Response:
    return error(500, "An internal server error occurred.", detail=detail)


def parse_uuid(text: str) -> str:
    """The canonical form of `text`, by the rules of Go's `uuid.Parse`.

    The prefix urn:uuid:, braces, and an id without dashes are valid. Raises ValueError with Go's message.
    """
    length = len(text.encode())
    if length == 45:
        if text[:9].lower() != "urn:uuid:":
            raise ValueError(f'invalid urn prefix: "{text[:9]}"')
        text = text[9:]
    elif length == 38:
        text = text[1:-1]
    elif length == 32:
        if not re.fullmatch(r"[0-9a-fA-F]{32}", text):
            raise ValueError("invalid UUID format")
        return str(uuid.UUID(text))
    elif length != 36:
        raise ValueError(f"invalid UUID length: {length}")
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise ValueError("invalid UUID format")
    return str(uuid.UUID(text))
