"""Rehearse a shutdown against the real peers: each part is timed, nothing is stopped, nothing is stored.

    {"budget_s": 8.0, "took_s": 0.14, "fits": true, "parts": [{"name": "refresh", "took_s": 0.01, "allowed_s": 1.9,
     "outcome": "done", "detail": "10 messages"}, …]}

coderd gets a body of the snapshot's size without messages at the task's own route. It checks token, route, task and
size before it misses them (`Coderd.rehearse_log_snapshot`), and stores nothing. Repeating the stored snapshot instead
could overwrite a newer one that is being delivered. Other destinations store everything they get, so they are skipped.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from agentd.clock import Clock
from agentd.coderd.access import coderd_client
from agentd.coderd.errors import NotFoundError, RouteNotFoundError
from agentd.coderd.extra_headers import ExtraHeaders
from agentd.coderd.token import TokenSource
from agentd.config import Config
from agentd.conversation.fit import Fitted, fit
from agentd.daemon.shutdown import CLOSING_S, final_read_s
from agentd.durable import TMP_PREFIX, replace_file
from agentd.errors import AgentdError
from agentd.http_client import client_session
from agentd.snapshots.recorder import Recorder
from agentd.snapshots.spool import Spool
from agentd.stability.watcher import Watcher


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the shutdown. `allowed_s` is its time limit, None if only the budget limits it."""

    name: str
    took_s: float
    allowed_s: float | None
    outcome: Literal["done", "failed", "skipped"]
    detail: str = ""


Work = Callable[[], Awaitable[str]]


class _NotDoneError(AgentdError):
    """A part of the shutdown failed."""


class Drill:
    """One rehearsal. It takes `shutdown.budget_s` at most, as a real shutdown does."""

    def __init__(
        self,
        *,
        config: Config,
        clock: Clock,
        token: TokenSource | None,
        headers: ExtraHeaders,
        watcher: Watcher,
        recorder: Recorder,
        spool: Spool,
        destinations: Sequence[str],
    ) -> None:
        self._config = config
        self._monotonic = clock.monotonic
        self._token = token
        self._headers = headers
        self._watcher = watcher
        self._recorder = recorder
        self._spool = spool
        self._destinations = destinations
        self._budget_s = config.shutdown.budget_s
        self._deadline = self._monotonic() + self._budget_s - CLOSING_S
        self._payload = bytes(config.snapshots.max_bytes)

    async def run(self) -> dict[str, Any]:
        """The report above."""
        began = self._monotonic()
        parts = [
            await self._timed("refresh", self._read, allowed_s=final_read_s(self._left_s())),
            await self._timed("fit", self._fit),
            await self._timed("spool", self._spool_write),
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
            outcome, detail = "failed", f"not finished within {bound_s:.1f} s"
        except (AgentdError, OSError) as exc:
            outcome, detail = "failed", str(exc)
        return Part(name, self._monotonic() - began, allowed_s, outcome, detail)

    async def _read(self) -> str:
        if not await self._watcher.read_messages(final_read_s(self._left_s())):
            raise _NotDoneError(
                "the agent does not answer", hint="a stop would deliver the snapshot that is on disk"
            )
        return f"{len(self._recorder.messages)} messages from the agent"

    async def _fit(self) -> str:
        limits = self._config.snapshots
        messages = self._recorder.messages
        if not messages:
            return "no message yet; measured with the largest possible snapshot"

        def fitted() -> Fitted:
            return fit(messages, max_messages=limits.max_messages, max_bytes=limits.max_bytes)

        snapshot = await self._spool.in_thread(fitted)
        self._payload = snapshot.payload
        return f"{snapshot.messages} messages, {len(snapshot.payload):,} bytes"

    async def _spool_write(self) -> str:
        # The next start removes a file of this name, if the process is killed before the unlink.
        trial = self._spool.path / f"{TMP_PREFIX}drill"

        def write() -> None:
            try:
                replace_file(trial, self._payload)
            finally:
                trial.unlink(missing_ok=True)

        await self._spool.in_thread(write)
        return f"{len(self._payload):,} bytes written, synced and removed again"

    async def _uploads(self) -> list[Part]:
        allowed_s = self._left_s()
        others = [
            Part("upload", 0.0, None, "skipped", f"{name}: a rehearsal would store something there")
            for name in self._destinations
            if name != "coder"
        ]
        if "coder" not in self._config.snapshots.destinations:
            return others
        return [await self._timed("upload", self._upload, allowed_s=allowed_s), *others]

    async def _upload(self) -> str:
        """Uses a new connection, as a real stop usually has to."""
        config, token = self._config, self._token
        if token is None or not config.coder.url:
            raise _NotDoneError("coder: there is no URL or no token", hint="see `agentd config check`")
        task_id = config.snapshots.task_id
        async with client_session() as session:
            coderd = coderd_client(config, token, session, self._headers)
            try:
                await coderd.rehearse_log_snapshot(
                    task_id, size_bytes=len(self._payload), timeout_s=self._left_s()
                )
            except RouteNotFoundError:
                return "coder: this release has no log snapshots; a stop would keep the snapshot in the spool"
            except NotFoundError:
                if task_id:
                    raise
                return "coder: answers; snapshots.task_id is not set, so nothing would be uploaded"
        return f"coder: would have stored {len(self._payload):,} bytes for task {task_id}, and stored nothing"
