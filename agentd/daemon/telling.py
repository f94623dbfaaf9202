"""Tells coderd what holds for the task, where `status.app_slug` asks for it: the desk's news into the reporter's slot."""

from collections.abc import Callable
from functools import partial
from typing import Final

from agentd.clock import Clock
from agentd.coderd.client import Coderd
from agentd.metrics import Registry
from agentd.stability.desk import TaskDesk
from agentd.stability.reporter import Reporter, Update
from agentd.stability.task_file import Told
from agentd.stability.task_state import Source

__all__ = ["Telling"]

READY_LOOK_S: Final = 1.0
LAST_WORD: Final = "The workspace is stopping"


class Telling:
    """`ready` says whether this workspace is up: coderd drops notifications of one that is not."""

    def __init__(
        self,
        *,
        coderd: Coderd,
        app_slug: str,
        desk: TaskDesk,
        ready: Callable[[], bool],
        clock: Clock,
        metrics: Registry,
    ) -> None:
        self._desk = desk
        self._ready = ready
        self._clock = clock
        told = desk.told
        self._reporter = Reporter(
            send=partial(coderd.update_app_status, app_slug),
            clock=clock,
            metrics=metrics,
            told=None if told is None else Update(told.word, told.message, told.uri),
            on_told=lambda update: desk.remember_told(Told(update.word, update.message, update.uri)),
        )
        if desk.is_finished:
            # An end that an earlier run could not tell any more; told already, it is no news.
            self.offer()

    def offer(self) -> None:
        """What holds has changed."""
        standing = self._desk.standing
        said = (standing.message, standing.uri) if standing is not None else ("", "")
        explicit = standing is not None and standing.source is not Source.WATCHER
        self._reporter.offer(Update(self._desk.word, *said, explicit=explicit))

    async def run(self) -> None:
        """Wait until the workspace is up, then tell, for ever."""
        while not self._ready():
            await self._clock.sleep(READY_LOOK_S)
        self._reporter.open()
        await self._reporter.run()

    async def last_word(self, *, timeout_s: float) -> bool:
        """At stop, after `run` was cancelled: leave no spinner behind.  Whether coderd holds what is true."""
        return await self._reporter.last_word(LAST_WORD, timeout_s=timeout_s)
