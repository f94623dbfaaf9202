"""The commands of a simulated coderd's control endpoint, as in `curl -X POST …/_sim/claim-start`."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import ClassVar, Final

from agentd.simulator.coderd import openapi
from agentd.simulator.coderd.server import SimulatedCoderd
from agentd.simulator.coderd.workspaces import Job, Workspace
from agentd.simulator.control import Fields, PeerControl
from agentd.simulator.faults import SimulatorError

_OUTAGE_S: Final = 3.0


class CoderdControl(PeerControl[SimulatedCoderd]):
    """Commands that call the public methods of `SimulatedCoderd`.

    The field `workspace` is an id or a name; the newest workspace is the default.
    """

    NAME = "coderd"

    def views(self) -> dict[str, Callable[[], object]]:
        return {**super().views(), "openapi.json": lambda: openapi.document(self.peer.build_version)}

    def state(self) -> dict[str, object]:
        """Workspaces with builds, open streams and statuses; tasks; snapshots; notifications; executions."""
        coderd = self.peer
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
        """The newest requests, the newest 20 snapshot uploads, and the waiting faults."""
        uploads = [
            {"at": call.at, "status": call.status, "bytes": len(call.body)}
            for call in self.peer.calls("log-snapshot")[-20:]
        ]
        return {**super().traffic(), "deliveries": uploads}

    def _workspace_state(self, ws: Workspace) -> dict[str, object]:
        return {
            "id": ws.id,
            "name": ws.name,
            "owner_id": ws.owner_id,
            "token": ws.token,
            "open_streams": self.peer.open_streams(ws),
            "builds": [
                f"{build.number} {build.transition} {build.stage.name.lower()} {build.job}"
                for build in ws.builds
            ],
            "app_statuses": [asdict(row) for row in self.peer.app_statuses[ws.id]],
        }

    def _workspace(self, fields: Fields) -> Workspace:
        wanted = fields.get("workspace")
        for ws in reversed(self.peer.workspaces):
            if wanted in (None, ws.id, ws.name):
                return ws
        raise SimulatorError(f"no workspace {wanted!r}" if wanted else "there is no workspace")

    def _claim_start(self, fields: Fields) -> object:
        ws = self._workspace(fields)
        self.peer.claim_start(ws, fields.get("owner"))
        return {"owner_id": ws.owner_id}

    async def _claim_finish(self, fields: Fields) -> object:
        ws = self._workspace(fields)
        await self.peer.claim_finish(ws, publish=bool(fields.get("publish", True)))
        return {"streams": self.peer.open_streams(ws)}

    def _claim_fail(self, fields: Fields) -> None:
        error = str(fields.get("error", "terraform apply failed"))
        self.peer.claim_fail(self._workspace(fields), error, bool(fields.get("agents_recorded", False)))

    def _start(self, fields: Fields) -> object:
        job = Job(fields.get("job", "succeeded"))
        return {"token": self.peer.start_build(self._workspace(fields), token=fields.get("token"), job=job)}

    def _start_finish(self, fields: Fields) -> object:
        error = str(fields.get("error", ""))
        return {"token": self.peer.start_finish(self._workspace(fields), error=error)}

    def _agent(self, fields: Fields) -> None:
        known = {name: fields[name] for name in ("lifecycle", "app_health", "connected") if name in fields}
        self.peer.set_agent(self._workspace(fields), **known)

    async def _publish(self, fields: Fields) -> None:
        event = fields["event"] if "event" in fields else str(fields["raw"]).encode()
        await self.peer.publish(self._workspace(fields), event)

    async def _drop(self, fields: Fields) -> None:
        how = fields.get("how", "eof")
        if how not in ("eof", "cut", "reset", "half_open"):
            raise SimulatorError(f"unknown way to drop: {how!r}", hint="use eof, cut, reset or half_open")
        if how in ("cut", "reset"):
            self.after_response(self.peer.drop_connections, how)
        else:
            await self.peer.drop_connections(how)

    def _restart(self, fields: Fields) -> object:
        seconds = float(fields.get("seconds", _OUTAGE_S))
        self.require_listening()
        self.after_response(self._stop_and_start, seconds)
        return {"away_s": seconds}

    async def _stop_and_start(self, outage_s: float) -> None:
        await self.peer.stop()
        await asyncio.sleep(outage_s)
        await self.peer.start()

    COMMANDS: ClassVar = {
        "claim-start": _claim_start,
        "claim-finish": _claim_finish,
        "claim-fail": _claim_fail,
        "start": _start,
        "start-finish": _start_finish,
        "run-job": lambda self, fields: self.peer.run_job(self._workspace(fields)),
        "agent": _agent,
        "stop-start": lambda self, fields: self.peer.stop_start(self._workspace(fields)),
        "stop-finish": lambda self, fields: self.peer.stop_finish(
            self._workspace(fields), error=str(fields.get("error", ""))
        ),
        "delete": lambda self, fields: self.peer.delete_build(self._workspace(fields)),
        "publish": _publish,
        "drop": _drop,
        "fail-next": lambda self, fields: self.peer.fail_next(**fields),
        "fault": lambda self, fields: self.peer.fault(**fields),
        "clear-faults": PeerControl.clear_faults,
        "advance-clock": lambda self, fields: self.peer.advance_clock(float(fields["seconds"])),
        "restart": _restart,
        "away": PeerControl.away,
        "back": PeerControl.back,
    }
