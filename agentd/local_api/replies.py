"""JSON responses of the local API. An error body is `{"message": …, "detail"?: …}`, as in coderd's API."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web

from agentd import log
from agentd.errors import AgentdError, PeerError
from agentd.masking import masked

BODY_MAX_BYTES: Final = 64 * 1024
"""Largest request body."""

Json = Mapping[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(AgentdError):
    """An operation refuses a request with the HTTP status `status`. `hint` is the `detail` of the body."""

    def __init__(self, status: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


def encode_json(value: object) -> bytes:
    """Compact JSON without a line end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # Output of a hook can contain a lone surrogate, which UTF-8 cannot encode: write the JSON escape \udc80.
    return text.encode("utf-8", "backslashreplace")


def json_response(value: Json, status: int = 200) -> web.Response:
    return web.Response(body=encode_json(value) + b"\n", status=status, content_type="application/json")


def error_response(status: int, message: str, detail: str = "") -> web.Response:
    message, detail = masked(message), masked(detail)
    return json_response({"message": message, "detail": detail} if detail else {"message": message}, status)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Convert every exception of a handler to an error response, including aiohttp's own 404, 405 and 413."""
    try:
        return await handler(request)
    except ApiError as exc:
        return error_response(exc.status, exc.message, exc.hint)
    except web.HTTPNotFound:
        return error_response(404, "Route not found.")
    except web.HTTPRequestEntityTooLarge:
        # Not `exc.reason`: Python 3.13 changed its text for this status.
        return error_response(413, "Request body too large.", f"At most {BODY_MAX_BYTES} bytes.")
    except web.HTTPException as exc:
        response = error_response(exc.status, f"{exc.reason}.")
        if "Allow" in exc.headers:
            response.headers["Allow"] = exc.headers["Allow"]
        return response
    except AgentdError as exc:
        return error_response(502 if isinstance(exc, PeerError) else 500, exc.message, exc.hint)
    except Exception as exc:  # noqa: BLE001 - one failed request must not end the daemon; it is logged
        log.get("local_api").error("local_api.answer_failed", route=request.path, exc_info=exc)
        return error_response(500, "Internal error.", "See agentd's log.")
