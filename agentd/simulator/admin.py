"""The `/_sim/` door of both simulators: a person with curl may use it, a web page may not."""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from aiohttp import web

from agentd.errors import AgentdError

Command: TypeAlias = Callable[[Mapping[str, Any]], object]
"""Takes the fields of a request; what it gives may be awaitable."""

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


async def serve(
    request: web.Request, commands: Mapping[str, Command], views: Mapping[str, Callable[[], object]]
) -> web.Response:
    """`GET /_sim/<view>`, `POST /_sim/<command>` with a JSON object (or nothing) as body.

    200 `{"done": …}`; 400 when the command cannot be carried out; 403 for a request a browser made for some page.
    """
    if not _is_local(request):
        return _json(403, {"message": "only for local callers"})
    name = request.path.removeprefix("/_sim/")
    if name in views and request.method == "GET":
        return _json(200, views[name]())
    if name not in commands:
        return _json(404, {"message": f"no command {name!r}", "known": [*sorted(views), *sorted(commands)]})
    if request.method != "POST":
        return _json(405, {"message": f"POST /_sim/{name}"})
    try:
        fields = json.loads(await request.content.read() or b"{}")
        if not isinstance(fields, dict):
            return _json(400, {"message": "the body is a JSON object, or nothing"})
        return _json(200, {"done": name, "result": await carry_out(commands, name, fields)})
    except (AgentdError, ValueError, TypeError, KeyError) as wrong:
        return _json(400, {"message": str(wrong) or type(wrong).__name__})


async def carry_out(commands: Mapping[str, Command], name: str, fields: Mapping[str, Any]) -> object:
    """Do what the door does for `POST /_sim/<name>`, for who needs no door. Raises what the command raises."""
    result = commands[name](fields)
    return await result if inspect.isawaitable(result) else result


def _is_local(request: web.Request) -> bool:
    """A page on the internet has an Origin, and with DNS rebinding a foreign Host: neither may pass."""
    host = request.headers.get("Host", "").lower()
    name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    origin = request.headers.get("Origin")
    return name in _LOCAL_HOSTS and (origin is None or origin == f"http://{host}")


def _json(status: int, value: object) -> web.Response:
    body = json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n"
    return web.Response(status=status, text=body, content_type="application/json")
