"""Hooks of events: order, coalesced triggers, environment, failures and the stop."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from metric_values import value_of

from agentd.clock import Clock
from agentd.hooks.event_hooks import EventHooks, HookEvent
from agentd.hooks.run import HookPolicy
from agentd.metrics import Registry

STABLE, BUSY, WAITING, STOP = HookEvent


class Hooks:
    """A hooks directory whose hooks write their runs to a trace, and the runner."""

    def __init__(self, root):
        self.root = root
        self.trace = root / "trace"
        self.metrics = Registry()
        self.runner = EventHooks(
            policy=HookPolicy(
                root / "hooks",
                root / "state",
                {"PATH": "/usr/bin:/bin", "CODER_AGENT_TOKEN": "secret"},
                timeout_s=30.0,
                grace_s=0.3,
                stop_grace_s=0.3,
            ),
            workspace_id=lambda: "w-1",
            agent=lambda: ("claude-code", "s-1"),
            clock=Clock(),
            metrics=self.metrics,
        )

    def add(self, event, name, body=""):
        folder = self.root / "hooks" / f"on-{event}.d"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "$AGENTD_REASON $AGENTD_HOOK" >> {self.trace}\n{body}\n')
        path.chmod(0o755)
        return path

    def runs(self):
        return self.trace.read_text().splitlines() if self.trace.exists() else []

    def count(self, event, outcome):
        return value_of(
            self.metrics, "agentd_occasion_hook_runs_total", occasion=event.value, outcome=outcome
        )

    async def until(self, satisfied):
        async with asyncio.timeout(20):
            while not satisfied():
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.runner.run(), name="event hooks")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
def hooks(tmp_path):
    return Hooks(tmp_path)


async def test_each_event_runs_its_own_hooks_in_name_order(hooks):
    hooks.add(STABLE, "20-b")
    hooks.add(STABLE, "10-a")
    hooks.add(BUSY, "10-c")
    hooks.add(WAITING, "10-d")
    async with hooks.running():
        hooks.runner.trigger(STABLE)
        await hooks.until(lambda: len(hooks.runs()) == 2)
        hooks.runner.trigger(BUSY)
        await hooks.until(lambda: len(hooks.runs()) == 3)
        hooks.runner.trigger(WAITING)
        await hooks.until(lambda: len(hooks.runs()) == 4)
    assert hooks.runs() == ["stable 10-a", "stable 20-b", "busy 10-c", "waiting 10-d"]


async def test_triggers_during_a_run_are_coalesced_and_the_last_run_is_for_the_present_state(hooks):
    go = hooks.root / "go"
    hooks.add(STABLE, "10-slow", f"until [ -e {go} ]; do sleep 0.01; done")
    hooks.add(BUSY, "10-quick")
    async with hooks.running():
        hooks.runner.trigger(STABLE)
        await hooks.until(lambda: len(hooks.runs()) == 1)
        for _ in range(50):
            hooks.runner.trigger(BUSY)
            hooks.runner.trigger(STABLE)
        go.touch()
        await hooks.until(lambda: len(hooks.runs()) == 3 and hooks.count(STABLE, "succeeded") == 2)
    assert hooks.runs() == ["stable 10-slow", "busy 10-quick", "stable 10-slow"]


async def test_a_repeated_event_triggers_no_run(hooks):
    hooks.add(BUSY, "10-a")
    hooks.add(STABLE, "10-b")
    async with hooks.running():
        for event in (BUSY, BUSY, BUSY, STABLE):
            hooks.runner.trigger(event)
            await hooks.until(lambda: not hooks.runner._queued)
        await hooks.until(lambda: len(hooks.runs()) == 2)
    assert hooks.runs() == ["busy 10-a", "stable 10-b"]


async def test_the_environment_of_a_hook_names_the_event_and_has_no_token(hooks):
    environment = hooks.root / "environment"
    hooks.add(STOP, "10-a", f"env > {environment}")
    await hooks.runner.run_stop_hooks(10.0)
    env = dict(line.split("=", 1) for line in environment.read_text().splitlines())
    assert (env["AGENTD_HOOK"], env["AGENTD_REASON"], env["AGENTD_WORKSPACE_ID"]) == ("10-a", "stop", "w-1")
    assert env["AGENTD_STATE_DIR"] == str(hooks.root / "state")
    assert (env["AGENTD_AGENT"], env["AGENTD_SESSION_ID"]) == ("claude-code", "s-1")
    assert "CODER_AGENT_TOKEN" not in env


async def test_a_failed_hook_is_not_retried_and_the_next_hook_runs(hooks):
    hooks.add(STABLE, "10-a", "exit 3")
    hooks.add(STABLE, "20-b")
    async with hooks.running():
        hooks.runner.trigger(STABLE)
        await hooks.until(lambda: hooks.count(STABLE, "succeeded") == 1)
    assert hooks.runs() == ["stable 10-a", "stable 20-b"]
    assert hooks.count(STABLE, "failed") == 1


async def test_a_hook_that_others_may_write_is_not_run(hooks):
    hooks.add(STABLE, "10-a").chmod(0o777)
    async with hooks.running():
        hooks.runner.trigger(STABLE)
        await hooks.until(lambda: hooks.count(STABLE, "refused") == 1)
    assert hooks.runs() == []


async def test_a_directory_that_others_may_write_is_not_used_and_later_events_run(hooks):
    hooks.add(STABLE, "10-a").parent.chmod(0o777)
    hooks.add(BUSY, "10-b")
    async with hooks.running():
        hooks.runner.trigger(STABLE)
        hooks.runner.trigger(BUSY)
        await hooks.until(lambda: hooks.count(BUSY, "succeeded") == 1)
    assert hooks.runs() == ["busy 10-b"]


async def test_stop_hooks_are_ended_when_their_time_is_over(hooks):
    hooks.add(STOP, "10-hangs", "trap '' TERM; sleep 60")
    hooks.add(STOP, "20-never")
    began = time.monotonic()
    await hooks.runner.run_stop_hooks(1.0)
    assert time.monotonic() - began < 5.0
    assert hooks.runs() == ["stop 10-hangs"]
    assert hooks.count(STOP, "interrupted") == 1


async def test_a_stop_without_hooks_does_not_wait(hooks):
    began = time.monotonic()
    await hooks.runner.run_stop_hooks(60.0)
    assert time.monotonic() - began < 5.0
