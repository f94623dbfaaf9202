"""The simulated coderd: the steps of its workspaces, the faults of its network, and what it was asked."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from agentd.simulator import sse
from agentd.simulator.coderd import eras
from agentd.simulator.coderd.admin import Admin
from agentd.simulator.coderd.gate import RateLimit
from agentd.simulator.coderd.router import ROUTE_NAMES, Router
from agentd.simulator.coderd.steps import Steps
from agentd.simulator.coderd.workspaces import Workspace
from agentd.simulator.coderd.world import World
from agentd.simulator.faults import Fault, FaultPlan, SimulatorError
from agentd.simulator.serving import Cut, Listener, RecordedRequest, RequestLog, Served, cut, reset


class SimulatedCoderd(Steps, Served):
    """A coderd on 127.0.0.1, for `async with`.

    `era` is E1 to E5; `flush="eager"` sends a stream's headers at once (coderd waits for the first event or ping);
    `ping_s` is the ping's period; `rate_limit` counts per client address, path and minute (0: none);
    `hold_builds` leaves what a user begins (a resume) pending for `run_job` and `start_finish`;
    `state` is a sqlite file that keeps it all, and from which a later one goes on (None: memory); `sleep` paces pings
    and `now` is the server's clock (Unix seconds).
    """

    def __init__(
        self,
        *,
        era: str = "E3",
        ping_s: float = 15.0,
        flush: Literal["lazy", "eager"] = "lazy",
        rate_limit: int = 512,
        enable_tasks: bool = True,
        port: int = 0,
        build_version: str | None = None,
        admin: bool = False,
        state: Path | str | None = None,
        hold_builds: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._now = now
        self.era = era
        self._world = World(
            behaviour=eras.behaviour(era, build_version=build_version, enable_tasks=enable_tasks),
            manners=sse.Manners(eager=flush == "eager", ping_s=ping_s),
            now=self.now,
            sleep=sleep,
            state=state,
            hold_builds=hold_builds,
        )
        self._log = RequestLog(self.now, self._world.changes)
        self._faults = FaultPlan()
        self._router = Router(
            self._world,
            log=self._log,
            plan=self._faults,
            limit=RateLimit(rate_limit, self.now),
            user_token=self.user_token,
            admin=Admin(self).handle if admin else None,
        )
        self._listener = Listener(self._router.handle, host="127.0.0.1", port=port)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except OSError:
            self._world.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        self._world.close()

    @property
    def build_version(self) -> str:
        """What `X-Coder-Build-Version` says."""
        return self._world.behaviour.version

    # --- the server itself ---

    async def start(self) -> None:
        """Listen: on the same port and with the same state as before, if there was a before."""
        await self._listener.start()

    async def stop(self) -> None:
        """Go away as coderd does when it is restarted: streams end in order, connections close, the port refuses."""
        await self._break_off("eof")
        await self._listener.stop()
        await self._router.close()
        self._world.commit()

    async def drop_connections(self, how: Cut = "eof") -> None:
        """End every open connection, and go on listening. Returns when the streams are gone (not for half_open)."""
        if how == "half_open":
            for transport in self._listener.transports():
                transport.pause_reading()
        await self._break_off(how)
        for transport in self._listener.transports():
            if how == "reset":
                reset(transport)
            elif how == "cut":
                cut(transport)

    async def _break_off(self, how: Cut) -> None:
        streams = self._world.open_streams()
        for stream in streams:
            stream.break_off(how)
        if how != "half_open":
            await asyncio.gather(*(stream.closed.wait() for stream in streams))

    def now(self) -> float:
        """The server's clock, Unix seconds."""
        return self._now() + float(self._world.identity["clock_offset_s"])

    def advance_clock(self, seconds: float) -> None:
        """Step the server's clock: rate limit windows, notification minutes, snapshot times."""
        self._world.identity["clock_offset_s"] = str(float(self._world.identity["clock_offset_s"]) + seconds)
        self._world.commit()

    # --- what it saw ---

    @property
    def requests(self) -> list[RecordedRequest]:
        """Everything received, in order of arrival."""
        return self._log.entries

    def calls(self, route: str) -> list[RecordedRequest]:
        """The requests of one route: reinit, log-snapshot, app-status, identity, task-logs, …"""
        return self._log.of(route)

    def recent(self) -> list[dict[str, object]]:
        """The newest requests, as `RequestLog.recent` has them."""
        return self._log.recent()

    def open_streams(self, ws: Workspace) -> int:
        """How many reinit requests of `ws` are being held."""
        return len(self._world.open_streams(ws))

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait for `predicate()`, asked again whenever a request, an answer or a stream comes or goes."""
        await self._world.changes.until(predicate)

    # --- faults ---

    def fail_next(
        self,
        route: str,
        status: int,
        body: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
        times: int = 1,
        content_type: str | None = None,
    ) -> None:
        """Answer the next `times` requests of `route` ("*": any) with this, before any check."""
        self.fault(
            route,
            "respond",
            times=times,
            status=status,
            body=body,
            headers=headers or {},
            content_type=content_type,
        )

    def fault(self, route: str, kind: str, *, times: int = 1, **params: Any) -> None:  # noqa: ANN401 - per kind
        """Let the next `times` requests of `route` meet a fault; kinds and parameters: `faults.play`, `sse.Manners`."""
        if route != "*" and route not in ROUTE_NAMES:
            raise SimulatorError(f"no such route: {route!r}", hint=f"known: {', '.join(sorted(ROUTE_NAMES))}")
        self._faults.add(route, Fault(kind, params), times)

    def waiting_faults(self) -> dict[str, list[str]]:
        """The kinds of those nobody has met yet, by route."""
        return self._faults.waiting()

    def clear_faults(self) -> None:
        """Forget the faults nobody met."""
        self._faults.clear()
