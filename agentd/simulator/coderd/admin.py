"""What a person can do to a running simulated coderd: `curl -X POST …/_sim/claim-start`."""

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from aiohttp import web

from agentd.simulator import admin
from agentd.simulator.coderd import openapi
from agentd.simulator.coderd.workspaces import Job, Workspace
from agentd.simulator.faults import SimulatorError

if TYPE_CHECKING:
    from agentd.simulator.coderd.server import SimulatedCoderd

_OUTAGE_S = 3.0


class Admin:
    """Commands over the public methods of `SimulatedCoderd`; `workspace` (an id) defaults to the newest one."""

    def __init__(self, coderd: "SimulatedCoderd") -> None:
        self._coderd = coderd
        self._soon = admin.Soon()

    @property
    def commands(self) -> dict[str, admin.Command]:
        """What can be done, by name."""
        return {name: functools.partial(one, self) for name, one in self.COMMANDS.items()}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one `/_sim/` request."""
        views: dict[str, Callable[[], object]] = {
            "state": self.state,
            "traffic": self.traffic,
            "openapi.json": self._openapi,
        }
        return await admin.serve(request, self.commands, views)

    def _openapi(self) -> object:
        return openapi.document(self._coderd.build_version)

    def state(self) -> dict[str, object]:
        """What there is: workspaces with builds and open streams, tasks, snapshots, statuses, notifications."""
        coderd = self._coderd
        return {
            "era": coderd.era,
            "url": coderd.url,
            "workspaces": [self._workspace_state(ws) for ws in coderd.workspaces],
            "tasks": [
                {
                    "id": task.id,
                    "workspace": task.workspace.id if task.workspace else None,
                    "deleted": task.deleted,
                }
                for task in coderd.tasks.values()
            ],
            "snapshots": {
                task_id: {"bytes": len(row.body), "created_at": row.created_at, "envelope": row.envelope}
                for task_id, row in coderd.snapshots.items()
            },
            "notifications": [asdict(one) for one in coderd.notifications],
            "executions": [asdict(one) for one in coderd.executions.values()],
            "requests": len(coderd.requests),
        }

    def traffic(self) -> dict[str, object]:
        """What came in lately: requests, deliveries of snapshots, and the faults that wait for the next ones."""
        coderd = self._coderd
        return {
            "listening": coderd.listening,
            "recent": coderd.recent(),
            "deliveries": [
                {"at": call.at, "status": call.status, "bytes": len(call.body)}
                for call in coderd.calls("log-snapshot")[-20:]
            ],
            "waiting_faults": coderd.waiting_faults(),
        }

    def _workspace_state(self, ws: Workspace) -> dict[str, object]:
        return {
            "id": ws.id,
            "name": ws.name,
            "owner_id": ws.owner_id,
            "token": ws.token,
            "open_streams": self._coderd.open_streams(ws),
            "builds": [
                f"{build.number} {build.transition} {build.stage.name.lower()} {build.job}"
                for build in ws.builds
            ],
            "app_statuses": [asdict(row) for row in self._coderd.app_statuses[ws.id]],
        }

    def _workspace(self, fields: Mapping[str, Any]) -> Workspace:
        known = self._coderd.workspaces
        wanted = fields.get("workspace")
        for ws in reversed(known):
            if wanted in (None, ws.id, ws.name):
                return ws
        raise SimulatorError(f"no workspace {wanted!r}" if wanted else "there is no workspace")

    def _claim_start(self, fields: Mapping[str, Any]) -> object:
        ws = self._workspace(fields)
        self._coderd.claim_start(ws, fields.get("owner"))
        return {"owner_id": ws.owner_id}

    async def _claim_finish(self, fields: Mapping[str, Any]) -> object:
        ws = self._workspace(fields)
        await self._coderd.claim_finish(ws, publish=bool(fields.get("publish", True)))
        return {"streams": self._coderd.open_streams(ws)}

    def _claim_fail(self, fields: Mapping[str, Any]) -> None:
        error = str(fields.get("error", "terraform apply failed"))
        self._coderd.claim_fail(self._workspace(fields), error, bool(fields.get("agents_recorded", False)))

    def _start(self, fields: Mapping[str, Any]) -> object:
        job = Job(fields.get("job", "succeeded"))
        return {
            "token": self._coderd.start_build(self._workspace(fields), token=fields.get("token"), job=job)
        }

    def _start_finish(self, fields: Mapping[str, Any]) -> object:
        error = str(fields.get("error", ""))
        return {"token": self._coderd.start_finish(self._workspace(fields), error=error)}

    def _agent(self, fields: Mapping[str, Any]) -> None:
        known = {name: fields[name] for name in ("lifecycle", "app_health", "connected") if name in fields}
        self._coderd.set_agent(self._workspace(fields), **known)

    def _stop_start(self, fields: Mapping[str, Any]) -> None:
        self._coderd.stop_start(self._workspace(fields))

    def _stop_finish(self, fields: Mapping[str, Any]) -> None:
        self._coderd.stop_finish(self._workspace(fields), error=str(fields.get("error", "")))

    def _delete(self, fields: Mapping[str, Any]) -> None:
        self._coderd.delete_build(self._workspace(fields))

    async def _publish(self, fields: Mapping[str, Any]) -> None:
        event = fields["event"] if "event" in fields else str(fields["raw"]).encode()
        await self._coderd.publish(self._workspace(fields), event)

    async def _drop(self, fields: Mapping[str, Any]) -> None:
        how = fields.get("how", "eof")
        if how not in ("eof", "cut", "reset", "half_open"):
            raise SimulatorError(f"no way to drop: {how!r}", hint="eof, cut, reset or half_open")
        if how in ("cut", "reset"):
            self._soon(self._coderd.drop_connections, how)
        else:
            await self._coderd.drop_connections(how)

    def _fail_next(self, fields: Mapping[str, Any]) -> None:
        self._coderd.fail_next(**fields)

    def _fault(self, fields: Mapping[str, Any]) -> None:
        self._coderd.fault(**fields)

    def _advance_clock(self, fields: Mapping[str, Any]) -> None:
        self._coderd.advance_clock(float(fields["seconds"]))

    def _restart(self, fields: Mapping[str, Any]) -> object:
        seconds = float(fields.get("seconds", _OUTAGE_S))
        self._must_listen()
        self._soon(self._be_away, seconds)
        return {"away_s": seconds}

    def _away(self) -> None:
        self._must_listen()
        self._soon(self._coderd.stop)

    async def _back(self) -> None:
        if self._coderd.listening:
            raise SimulatorError("coderd is there")
        await self._coderd.start()

    def _must_listen(self) -> None:
        if not self._coderd.listening:
            raise SimulatorError("coderd is away")

    async def _be_away(self, seconds: float) -> None:
        await self._coderd.stop()
        await asyncio.sleep(seconds)
        await self._coderd.start()

    COMMANDS: ClassVar[dict[str, Callable[["Admin", Mapping[str, Any]], object]]] = {
        "claim-start": _claim_start,
        "claim-finish": _claim_finish,
        "claim-fail": _claim_fail,
        "start": _start,
        "start-finish": _start_finish,
        "run-job": lambda self, fields: self._coderd.run_job(self._workspace(fields)),
        "agent": _agent,
        "stop-start": _stop_start,
        "stop-finish": _stop_finish,
        "delete": _delete,
        "publish": _publish,
        "drop": _drop,
        "fail-next": _fail_next,
        "fault": _fault,
        "clear-faults": lambda self, _fields: self._coderd.clear_faults(),
        "advance-clock": _advance_clock,
        "restart": _restart,
        "away": lambda self, _fields: self._away(),
        "back": lambda self, _fields: self._back(),
    }
