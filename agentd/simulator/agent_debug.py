"""The Coder agent's debug server, in a workspace on 127.0.0.1:2113.

It shows the last fetched manifest to local clients.
"""

import time
from collections.abc import Callable

from aiohttp import web

from agentd.simulator import gojson
from agentd.simulator.coderd.workspaces import NIL_UUID, PREBUILDS_USER, Workspace
from agentd.simulator.serving import Changes, Listener, RecordingServer, RequestLog


class SimulatedAgentDebug(RecordingServer):
    """`GET /debug/manifest` for one workspace, for `async with`.

    The manifest is that of the last `fetch_manifest()`. The real agent fetches it when it starts and when it
    reinitializes, so a claim appears only after the agent has handled it.
    """

    def __init__(
        self, ws: Workspace, *, owner_name: str = "user", port: int = 0, now: Callable[[], float] = time.time
    ) -> None:
        self._ws = ws
        self._owner_name = owner_name
        self._manifest = b""
        self._log = RequestLog(now, Changes())
        self._listener = Listener(self._handle, host="127.0.0.1", port=port)

    async def start(self) -> None:
        """Fetch the manifest and listen."""
        self.fetch_manifest()
        await super().start()

    def fetch_manifest(self) -> None:
        """Take over the workspace's current ids, owner and apps, as the agent does when it connects."""
        unclaimed = self._ws.owner_id == PREBUILDS_USER
        self._manifest = gojson.encode(
            {
                "parent_id": NIL_UUID,
                "agent_id": self._ws.agent.id,
                "agent_name": self._ws.agent.name,
                "owner_name": "prebuilds" if unclaimed else self._owner_name,
                "workspace_id": self._ws.id,
                "workspace_name": self._ws.name,
                "git_auth_configs": 0,
                "vscode_port_proxy_uri": "",
                "apps": [{"slug": slug} for slug in self._ws.agent.apps],
                "environment_variables": {},
                "directory": "",
                "scripts": [],
            }
        )

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        entry = self._log.record(request, "manifest" if request.path == "/debug/manifest" else "other")
        response = web.Response(status=404, text="404 page not found\n")
        if entry.route == "manifest":
            # The real handler sets no Content-Type; Go's server detects this one.
            response = web.Response(
                body=self._manifest, headers={"Content-Type": "text/plain; charset=utf-8"}
            )
        self._log.record_status(entry, response.status)
        return response
