"""A watcher, the simulated agent it watches, and what it said."""

import asyncio
from contextlib import asynccontextmanager, contextmanager

import pytest

from agentd.agents.agentapi import client as client_module
from agentd.agents.agentapi.agent import AgentApiAgent
from agentd.agents.agentapi.client import AgentApiClient
from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.stability.task_reports import TaskReports
from agentd.stability.tracker import AgentStatus, Tracker
from agentd.stability.watcher import Watcher
from agentd.tls import aiohttp


class NotFollowed(AgentApiAgent):
    """Never announces anything, so that polling must be enough."""

    async def changes(self):
        await asyncio.get_running_loop().create_future()
        yield


class Bench:
    def __init__(self, simulated, session, fake_clock, *, follow: bool) -> None:
        self.simulated = simulated
        self.clock = fake_clock
        self.windows: list[list[str]] = []
        self.states: list[AgentStatus] = []
        self.task_reports: TaskReports | None = None
        self.tracker = Tracker(5.0)
        self.client = AgentApiClient(simulated.url, session=session)
        kind = AgentApiAgent if follow else NotFollowed
        self.agent = kind(self.client, keep=3, clock=fake_clock.as_clock())
        self.watcher = Watcher(
            agent=self.agent,
            tracker=self.tracker,
            clock=fake_clock.as_clock(),
            poll_interval_s=1.0,
            checkpoint_s=5.0,
            keep_messages=3,
        )
        self.watcher.messages_read.add(self._on_messages)
        self.watcher.status_changed.add(self._on_status_changed)

    @contextmanager
    def short_timeouts(self, *routes: str):
        """Let requests of `routes` time out after 0.1 s, for a test in which the agent does not answer them."""
        with pytest.MonkeyPatch.context() as patch:
            for route in routes:
                patch.setattr(client_module, f"{route.upper()}_TIMEOUT_S", 0.1)
            yield

    def _on_messages(self, messages) -> None:
        self.windows.append([message.content for message in messages])
        if self.task_reports is not None:
            self.task_reports.on_messages(messages)

    def _on_status_changed(self, change) -> None:
        self.states.append(change.new)
        if self.task_reports is not None:
            self.task_reports.on_agent_change(change)

    async def look(self, times: int = 1, *, every_s: float = 1.0) -> None:
        for _ in range(times):
            await self.watcher.poll()
            await self.clock.advance(every_s)

    def asked(self, route: str) -> int:
        return len(self.simulated.calls(route))

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.watcher.run(), name="agent watcher")
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def rounds(self, count: int) -> list[float]:
        """Let `run` go round; returns how long it wanted to sleep each time."""
        pauses = []
        for _ in range(count):
            pauses.append(await self.clock.next_sleep())
            await self.clock.advance(pauses[-1])
        return pauses

    async def seconds(self, count: int) -> None:
        """Let time pass a second at a time, with every request that is due answered in between."""
        for _ in range(count):
            await self.clock.advance(1.0)
            await self.rest()

    async def rest(self) -> None:
        """Wait until nothing is in flight any more: the poll sleeps."""
        for _ in range(5):
            await asyncio.sleep(0.001)
        await self.until(lambda: self.clock.sleeping() > 0)

    async def until(self, predicate) -> None:
        """Let what is on its way arrive, in real time; the clock stands."""
        async with asyncio.timeout(30):
            while not predicate():
                await asyncio.sleep(0.001)


@asynccontextmanager
async def _bench(fake_clock, patch, *, follow: bool):
    async with SimulatedAgentApi() as simulated, aiohttp.ClientSession() as session:
        simulated.add_message("user", "do it")
        simulated.add_message("agent", "done")
        # Long, so that an answer of a busy machine is not a silence.
        patch.setattr(client_module, "STATUS_TIMEOUT_S", 10.0)
        patch.setattr(client_module, "MESSAGES_TIMEOUT_S", 10.0)
        bench = Bench(simulated, session, fake_clock, follow=follow)
        yield bench
        await bench.agent.close()


@pytest.fixture
async def bench(fake_clock, monkeypatch):
    """Polls only."""
    async with _bench(fake_clock, monkeypatch, follow=False) as bench:
        yield bench


@pytest.fixture
async def following(fake_clock, monkeypatch):
    """Polls and holds the event stream, connected."""
    async with _bench(fake_clock, monkeypatch, follow=True) as bench, bench.running():
        await bench.until(lambda: bench.agent.is_announcing)
        await bench.rest()
        yield bench
