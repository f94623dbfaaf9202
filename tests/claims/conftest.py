"""Fixtures: a hooks directory, and a claim side that listens to the simulated coderd and runs real hooks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentd.claims.hook_runner import HookRunner
from agentd.claims.ledger import Ledger
from agentd.claims.listener import ClaimListener
from agentd.claims.status import ClaimsView
from agentd.clock import Clock
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import StaticToken
from agentd.hooks.directory import ON_CLAIM
from agentd.hooks.run import HookPolicy
from agentd.metrics import Registry


@dataclass
class Hooks:
    """A hooks directory. Its hooks write one line per run to `trace`."""

    root: Path
    trace: Path

    @property
    def directory(self) -> Path:
        return self.root / ON_CLAIM

    def add(self, name: str, body: str = "") -> Path:
        """Add a hook that writes `name attempt event-id` to the trace and then runs `body` (sh)."""
        path = self.directory / name
        path.write_text(
            f'#!/bin/sh\necho "{name} $AGENTD_ATTEMPT $AGENTD_EVENT_ID" >> "{self.trace}"\n{body}\n'
        )
        path.chmod(0o755)
        return path

    def runs(self) -> list[str]:
        """`name attempt` of each run, in order."""
        if not self.trace.exists():
            return []
        return [line.rsplit(" ", 1)[0] for line in self.trace.read_text().splitlines()]


@pytest.fixture
def hooks(tmp_path: Path) -> Hooks:
    root = tmp_path / "hooks"
    (root / ON_CLAIM).mkdir(parents=True, mode=0o755)
    return Hooks(root, tmp_path / "trace")


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


UNSHORTENED_S = 3600.0


async def short_sleep(seconds: float) -> None:
    """Sleep for at most 10 ms, for tests that check the order of waits and not their length.

    A sleep of `UNSHORTENED_S` is not shortened: the test needs it to last.
    """
    await asyncio.sleep(seconds if seconds >= UNSHORTENED_S else min(seconds, 0.01))


FAST_CLOCK = Clock(sleep=short_sleep)


@dataclass
class Side:
    """A running claim side and the states that it had."""

    ledger: Ledger
    metrics: Registry
    listener: ClaimListener = field(init=False)
    states: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def follow(self) -> None:
        """Note each state that the listener's status computes."""
        status = self.listener._status
        update = status.update

        def noting() -> None:
            update()
            if self.states[-1:] != [status._state.value]:
                self.states.append(status._state.value)
                self.changed.set()

        status.update = status._hook_runner.on_change = noting

    async def until(self, state: str) -> ClaimsView:
        while (view := self.listener.view()).state != state:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 20)
        return view


StartSide = Callable[..., contextlib.AbstractAsyncContextManager[Side]]


@pytest.fixture
def start_side(hooks: Hooks, state_dir: Path) -> StartSide:
    @contextlib.asynccontextmanager
    async def start(
        url: str, token: str, *, clock: Clock = FAST_CLOCK, workspace_id: str | None = None, **options: Any
    ) -> AsyncIterator[Side]:
        metrics = Registry()
        ledger = Ledger(state_dir, workspace_id=workspace_id, clock=clock)
        limits = {name: options.pop(name) for name in ("max_attempts", "on_interrupted") if name in options}
        # Hooks are real processes, so the hook runner needs real time.
        hook_runner = HookRunner(
            ledger=ledger,
            policy=HookPolicy(hooks.root, state_dir, {"PATH": "/usr/bin:/bin"}, timeout_s=30.0),
            clock=options.pop("actor_clock", Clock()),
            metrics=metrics,
            **limits,
        )
        side = Side(ledger, metrics)
        if (missed_claims_of := options.pop("missed_claims_of", None)) is not None:
            options["find_missed"] = missed_claims_of(ledger)
        side.listener = ClaimListener(
            stream=ReinitStream(url, context=None, clock=options.pop("stream_clock", Clock())),
            tokens=options.pop("tokens", None) or StaticToken(token),
            ledger=ledger,
            hook_runner=hook_runner,
            clock=clock,
            metrics=metrics,
            workspace_id=workspace_id,
            **options,
        )
        side.follow()
        running = asyncio.create_task(side.listener.run(), name="claim side under test")
        try:
            yield side
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            ledger.close()

    return start
