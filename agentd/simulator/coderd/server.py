"""The simulated coderd: its server, its faults and its clock.

`CoderdOperations` has the operations on its records.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from agentd.simulator import sse
from agentd.simulator.coderd import eras
from agentd.simulator.coderd.access import RateLimit
from agentd.simulator.coderd.operations import CoderdOperations
from agentd.simulator.coderd.router import ROUTE_NAMES, Router
from agentd.simulator.coderd.workspaces import Workspace
from agentd.simulator.coderd.world import World
from agentd.simulator.faults import Fault, FaultPlan, FaultyServer, SimulatorError
from agentd.simulator.serving import DropMode, Listener, RequestLog, cut, reset


class SimulatedCoderd(CoderdOperations, FaultyServer):
    """A coderd on 127.0.0.1, for `async with`.

    Args:
        era: E1 to E5, see `eras`.
        ping_s: seconds between the pings of a stream.
        flush: "eager" sends a stream's headers at once; coderd sends them with the first event or ping.
        rate_limit: requests per minute for each client address and path; 0 for no limit.
        enable_tasks: whether E4 has the task routes (CODER_ENABLE_AI_TASKS).
        build_version: the version that the server reports, see `eras.behaviour`.
        state: a sqlite file for the records, which a later server can open; None for memory.
        hold_builds: the build of a resume stays pending until `run_job` and `start_finish`.
        sleep, now: its clocks; `now` returns Unix seconds.
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
        state: Path | str | None = None,
        hold_builds: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._now = now
        self.era = era
        self._world = World(
            behaviour=eras.behaviour(era, build_version=build_version, enable_tasks=enable_tasks),
            options=sse.StreamOptions(eager=flush == "eager", ping_s=ping_s),
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
        """The value of `X-Coder-Build-Version`."""
        return self._world.behaviour.version

    # --- the server itself ---

    async def stop(self) -> None:
        """Stop as coderd does at a restart: end the streams, close the connections, refuse new ones.

        The records stay.
        """
        await self._drop_streams("eof")
        await self._listener.stop()
        await self._router.close()
        self._world.commit()

    async def drop_connections(self, how: DropMode = "eof") -> None:
        """Drop every open connection and continue to listen.

        Returns when the streams have ended (not for half_open).
        """
        if how == "half_open":
            for transport in self._listener.transports():
                transport.pause_reading()
        await self._drop_streams(how)
        for transport in self._listener.transports():
            if how == "reset":
                reset(transport)
            elif how == "cut":
                cut(transport)

    async def _drop_streams(self, how: DropMode) -> None:
        streams = self._world.open_streams()
        for stream in streams:
            stream.drop(how)
        if how != "half_open":
            await asyncio.gather(*(stream.closed.wait() for stream in streams))

    def now(self) -> float:
        """The server's clock in Unix seconds."""
        return self._now() + float(self._world.identity["clock_offset_s"])

    def advance_clock(self, seconds: float) -> None:
        """Advance the server's clock, which rate limits, notifications and snapshots use."""
        self._world.identity["clock_offset_s"] = str(float(self._world.identity["clock_offset_s"]) + seconds)
        self._world.commit()

    def open_streams(self, ws: Workspace) -> int:
        """The number of open reinit streams of `ws`."""
        return len(self._world.open_streams(ws))

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
        """Answer the next `times` requests of `route` ("*": any) with this response, before any check."""
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
        """Inject a fault into the next `times` requests of `route` ("*": any).

        Kinds and parameters: `faults.inject` and `sse.StreamOptions.with_fault`.
        """
        if route != "*" and route not in ROUTE_NAMES:
            raise SimulatorError(f"no such route: {route!r}", hint=f"known: {', '.join(sorted(ROUTE_NAMES))}")
        self._faults.add(route, Fault(kind, params), times)
