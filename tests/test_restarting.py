"""A background task that fails starts again, and its failure reaches no other component."""

import asyncio

import pytest
from fakeclock import FakeClock
from structlog.testing import capture_logs

from agentd.restarting import keep_running, start
from agentd.subscribers import Subscribers


@pytest.fixture
def clock():
    return FakeClock()


async def stopped(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("how", ["raises", "raises a group", "returns"])
async def test_a_task_that_ends_is_logged_and_starts_again(clock, how):
    runs = 0

    async def run():
        nonlocal runs
        runs += 1
        if runs > 1:
            await asyncio.get_running_loop().create_future()
        if how == "raises":
            raise RuntimeError("a fault in the code")
        if how == "raises a group":
            raise ExceptionGroup("two", [RuntimeError("one"), TypeError("other")])

    with capture_logs() as lines:
        task = start("worker", run, clock.as_clock())
        await clock.advance(1.0)
    assert runs == 2
    [line] = lines
    assert (line["event"], line["task"], line["log_level"]) == ("agentd.task_failed", "worker", "error")
    assert line["exc_info"] is not None
    await stopped(task)


async def test_the_same_failure_is_logged_once_and_retried_with_growing_pauses(clock):
    async def run():
        raise RuntimeError("always")

    with capture_logs() as lines:
        task = start("worker", run, clock.as_clock())
        await clock.advance(3600)
    assert [line["event"] for line in lines] == ["agentd.task_failed"]
    assert 3600 / 60 <= len(clock.slept) < 400
    assert max(clock.slept) > 30
    await stopped(task)


async def test_a_failure_after_a_good_run_is_logged_again_and_retried_soon(clock):
    async def run():
        await clock.sleep(120)
        raise RuntimeError("now and then")

    with capture_logs() as lines:
        task = start("worker", run, clock.as_clock())
        await clock.advance(600)
    assert len(lines) >= 4
    assert all(line["retry_in_s"] <= 1.0 for line in lines)
    await stopped(task)


async def test_a_cancelled_task_ends(clock):
    async def run():
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(keep_running("worker", run, clock.as_clock()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_subscriber_that_fails_does_not_keep_the_others_from_the_value():
    got: list[int] = []
    subscribers = Subscribers[int]()

    def broken(_value):
        raise RuntimeError("a fault in the code")

    subscribers.add(broken)
    subscribers.add(got.append)
    with capture_logs() as lines:
        subscribers.notify(7)
    assert got == [7]
    [line] = lines
    assert line["event"] == "agentd.subscriber_failed"
    assert "broken" in line["subscriber"]
