"""The daemon's own page over the local API's other routes. Imported only when `local_api.listen` is set."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from agentd import ui

FILES: Final = ui.files("daemon")


def routes() -> list[web.RouteDef]:
    """`/` and what it loads."""
    return [web.get(path, _file(name, kind)) for path, (name, kind) in FILES.items()]


def _file(name: str, kind: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_request: web.Request) -> web.StreamResponse:
        return ui.answer(name, kind)

    return handle
