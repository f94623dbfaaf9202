"""Rehearse a shutdown against the real peers: every part of it timed, nothing stopped, nothing stored.

    {"budget_s": 8.0, "took_s": 0.14, "fits": true, "parts": [{"name": "refresh", "took_s": 0.01, "allowed_s": 1.9,
     "outcome": "done", "detail": "10 messages"}, …]}

What coderd stores does not change: a body of the snapshot's size without messages goes to the task's own route. coderd
checks token, route, task and size before it misses them (`Coderd.rehearse_log_snapshot`). Repeating the stored
snapshot would be as harmless alone, but not beside the delivery of a newer one that it would overwrite. Destinations
other than coderd take everything they are given, so they are not rehearsed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from agentd.coderd.access import coderd_client
from agentd.coderd.errors import NotFoundError
from agentd.conversation.fit import Fitted, fit
from agentd.daemon.budget import CLOSING_S, refresh_s
from agentd.daemon.build import Rooms
from agentd.durable import TMP_PREFIX, replace_file
from agentd.errors import AgentdError
from agentd.http_client import client_session

NO_TASK: Final = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the shutdown. `allowed_s` is what it may take at most, None where nothing bounds it but the budget."""

    name: str
    took_s: float
    allowed_s: float | None
    outcome: Literal["done", "failed", "skipped"]
    detail: str = ""


Work = Callable[[], Awaitable[str]]


class _NotDoneError(AgentdError):
    """A part did not come to its end."""


async def rehearse(rooms: Rooms) -> dict[str, Any]:
    """The report above. Takes the shutdown's budget at most, as a real shutdown would."""
    return await _Drill(rooms).run()


class _Drill:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._monotonic = rooms.clock.monotonic
        self._budget_s = rooms.config.shutdown.budget_s
        self._deadline = self._monotonic() + self._budget_s - CLOSING_S
        self._payload = bytes(rooms.config.snapshots.max_bytes)
        self._measured_with = "nothing said yet, so measured with the largest there can be"

    async def run(self) -> dict[str, Any]:
        began = self._monotonic()
        parts = [
            await self._timed("refresh", self._refresh, allowed_s=refresh_s(self._left_s())),
            await self._timed("fit", self._fit),
            await self._timed("spool", self._spool),
            *await self._uploads(),
        ]
        took_s = self._monotonic() - began
        return {
            "budget_s": self._budget_s,
            "took_s": round(took_s, 6),
            "fits": took_s <= self._budget_s and all(part.outcome != "failed" for part in parts),
            "parts": [asdict(replace(part, took_s=round(part.took_s, 6))) for part in parts],
        }

    def _left_s(self) -> float:
        return max(0.0, self._deadline - self._monotonic())

    async def _timed(self, name: str, work: Work, *, allowed_s: float | None = None) -> Part:
        bound_s = self._left_s() if allowed_s is None else allowed_s
        began = self._monotonic()
        outcome: Literal["done", "failed"] = "done"
        try:
            async with asyncio.timeout(bound_s):
                detail = await work()
        except TimeoutError:
            outcome, detail = "failed", f"did not end within {bound_s:.1f} s"
        except (AgentdError, OSError) as error:
            outcome, detail = "failed", str(error)
        return Part(name, self._monotonic() - began, allowed_s, outcome, detail)

    async def _refresh(self) -> str:
        if not await self._rooms.watcher.refresh(refresh_s(self._left_s())):
            raise _NotDoneError(
                "the agent does not answer", hint="a stop would deliver what is on disk already"
            )
        return f"{len(self._rooms.recorder.messages)} messages from the agent"

    async def _fit(self) -> str:
        limits = self._rooms.config.snapshots
        messages = self._rooms.recorder.messages
        if not messages:
            return self._measured_with

        def fitted() -> Fitted:
            return fit(messages, max_messages=limits.max_messages, max_bytes=limits.max_bytes)

        snapshot = await self._rooms.spool.in_thread(fitted)
        self._payload = snapshot.payload
        return f"{snapshot.messages} messages, {len(snapshot.payload):,} bytes"

    async def _spool(self) -> str:
        # A name that the next start clears away, should we be killed before the unlink.
        trial = self._rooms.spool.path / f"{TMP_PREFIX}drill"

        def write() -> None:
            try:
                replace_file(trial, self._payload)
            finally:
                trial.unlink(missing_ok=True)

        await self._rooms.spool.in_thread(write)
        return f"{len(self._payload):,} bytes written, synced and removed again"

    async def _uploads(self) -> list[Part]:
        allowed_s = self._left_s()
        places = self._rooms.config.snapshots.destinations
        others = [
            Part("upload", 0.0, None, "skipped", f"{name}: a rehearsal there would be a delivery")
            for name in self._rooms.delivery.names
            if name != "coder"
        ]
        if "coder" not in places:
            return others
        return [await self._timed("upload", self._upload, allowed_s=allowed_s), *others]

    async def _upload(self) -> str:
        """On a connection of its own: the one of a real stop has not been used for long either."""
        config = self._rooms.config
        if self._rooms.token is None or not config.coder.url:
            raise _NotDoneError("coder: there is no URL or no token", hint="see `agentd config check`")
        task_id = config.snapshots.task_id
        async with client_session() as session:
            coderd = coderd_client(config, self._rooms.token, session)
            try:
                await coderd.rehearse_log_snapshot(
                    task_id or NO_TASK, size_bytes=len(self._payload), timeout_s=self._left_s()
                )
            except NotFoundError:
                if task_id:
                    raise
                return "coder: answers; snapshots.task_id is not set, so nothing would be uploaded"
        return f"coder: would have stored {len(self._payload):,} bytes for task {task_id}, and stored nothing"
