import asyncio
import time

import pytest
from fakeclock import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from agentd.clock import Clock, rfc3339


def test_the_default_clock_is_the_systems():
    clock = Clock()
    assert (clock.monotonic, clock.wall, clock.sleep) == (time.monotonic, time.time, asyncio.sleep)


async def test_wait_event_returns_when_the_event_is_set_and_leaves_no_sleeper(fake_clock: FakeClock):
    event = asyncio.Event()
    waiting = asyncio.create_task(fake_clock.as_clock().wait_event(event, 10.0))
    await fake_clock.advance(9.0)
    assert not waiting.done()
    event.set()
    assert await waiting is True
    await fake_clock.settle()
    assert fake_clock.sleeping() == 0


async def test_wait_event_returns_false_when_its_time_is_up(fake_clock: FakeClock):
    event = asyncio.Event()
    waiting = asyncio.create_task(fake_clock.as_clock().wait_event(event, 10.0))
    await fake_clock.advance(10.0)
    assert await waiting is False
    assert not event._waiters


async def test_wait_event_without_a_limit_waits_for_the_event(fake_clock: FakeClock):
    event = asyncio.Event()
    waiting = asyncio.create_task(fake_clock.as_clock().wait_event(event, None))
    await fake_clock.advance(1e6)
    assert not waiting.done()
    event.set()
    assert await waiting is True


async def test_wait_event_returns_at_once_when_the_event_is_already_set(fake_clock: FakeClock):
    event = asyncio.Event()
    event.set()
    assert await fake_clock.as_clock().wait_event(event, 0.0) is True
    assert fake_clock.slept == []


async def test_wait_event_passes_a_cancellation_on(fake_clock: FakeClock):
    waiting = asyncio.create_task(fake_clock.as_clock().wait_event(asyncio.Event(), 10.0))
    await fake_clock.settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await fake_clock.settle()
    assert fake_clock.sleeping() == 0


async def test_a_timeout_cancels_its_body_and_waits_for_the_end_of_it(fake_clock: FakeClock):
    clock, events = fake_clock.as_clock(), []

    async def body():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            events.append("cleaned up")

    async def limited():
        with pytest.raises(TimeoutError):
            async with clock.timeout(5.0):
                await body()
        events.append("timed out")

    task = asyncio.create_task(limited())
    await fake_clock.advance(5.0)
    await task
    assert events == ["cleaned up", "timed out"]


async def test_a_timeout_that_is_not_reached_changes_nothing(fake_clock: FakeClock):
    async with fake_clock.as_clock().timeout(5.0):
        await asyncio.sleep(0)
    await fake_clock.advance(10.0)
    assert fake_clock.sleeping() == 0


@pytest.mark.parametrize(
    ("unix_s", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_772_442_000, "2026-03-02T09:00:00.000000Z"),
        (1_772_442_000.25, "2026-03-02T09:00:00.250000Z"),
        (-0.5, "1969-12-31T23:59:59.500000Z"),
        (-62_135_596_800, "0001-01-01T00:00:00.000000Z"),
        (253_402_300_799, "9999-12-31T23:59:59.000000Z"),
    ],
)
def test_a_time_is_formatted_in_utc_with_microseconds(unix_s, text):
    assert rfc3339(unix_s) == text


@pytest.mark.parametrize("unix_s", [float("nan"), float("inf"), 1e12, 1e300, -1e12])
def test_a_time_outside_the_calendar_is_rejected(unix_s):
    with pytest.raises(ValueError):
        rfc3339(unix_s)


@given(st.floats(min_value=-62e9, max_value=253e9))
def test_texts_sort_as_their_times_do(unix_s):
    text = rfc3339(unix_s)
    assert len(text) == len("2026-03-02T09:00:00.000000Z")
    assert rfc3339(unix_s + 1) > text
