"""The `/_sim/` door of both simulators: a person with curl may use it, a web page may not."""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeAlias

from aiohttp import web

from agentd.errors import AgentdError

Command: TypeAlias = Callable[[Mapping[str, Any]], object]
"""Takes the fields of a request; what it gives may be awaitable."""

_ANSWER_S = 0.05
"""What an answer takes to leave, on loopback."""
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


async def serve(
    request: web.Request, commands: Mapping[str, Command], views: Mapping[str, Callable[[], object]]
) -> web.Response:
    """`GET /_sim/<view>`, `POST /_sim/<command>` with a JSON object (or nothing) as body.

    200 `{"done": …}`; 400 when the command cannot be carried out; 403 for a request a browser made for some page.
    """
    if not is_local(request):
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


class Soon:
    """Does what it is given when the answer is out that promised it: the connection that travels on goes, too."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, what: Callable[..., Awaitable[None]], *args: object) -> None:
        async def later() -> None:
            await asyncio.sleep(_ANSWER_S)
            await what(*args)

        task = asyncio.create_task(later(), name="simulator: admin")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def is_local(request: web.Request, proxies: Collection[str] = ()) -> bool:
    """A page on the internet has an Origin, and with DNS rebinding a foreign Host: neither may pass.

    `proxies` are hosts (lower case) under which a proxy in front passes requests on.
    """
    host = request.headers.get("Host", "").lower()
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not _opens_a_page(request):
        return False
    if host in proxies:
        return request.headers.get("Origin") in (None, f"http://{host}", f"https://{host}")
    name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    origin = request.headers.get("Origin")
    return name in _LOCAL_HOSTS and (origin is None or origin == f"http://{host}")


def _opens_a_page(request: web.Request) -> bool:
    headers = request.headers
    return headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"


def _json(status: int, value: object) -> web.Response:
    body = json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n"
    return web.Response(status=status, text=body, content_type="application/json")
