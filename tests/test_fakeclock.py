import asyncio
import contextlib

import pytest
from fakeclock import SkippingClock


async def test_time_passes_only_by_advance(fake_clock, clock):
    before = clock.monotonic(), clock.wall()
    await fake_clock.settle()
    assert (clock.monotonic(), clock.wall()) == before
    await fake_clock.advance(2.5)
    assert (clock.monotonic(), clock.wall()) == (before[0] + 2.5, before[1] + 2.5)


async def test_sleepers_wake_in_order_at_their_own_times(fake_clock, clock):
    woken = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic() - 1000))

    async with asyncio.TaskGroup() as group:
        for name, seconds in (("late", 3), ("soon", 1), ("also soon", 1), ("now", 0)):
            group.create_task(sleeper(name, seconds))
        await fake_clock.settle()
        assert (woken, fake_clock.sleeping()) == ([("now", 0)], 3)
        await fake_clock.advance(2)
        assert (woken[1:], fake_clock.sleeping()) == ([("soon", 1), ("also soon", 1)], 1)
        await fake_clock.advance(1)
    assert woken[3:] == [("late", 3)]


async def test_one_advance_can_end_several_sleeps_of_a_loop(fake_clock, clock):
    ticks = []

    async def tick() -> None:
        while True:
            await clock.sleep(1)
            ticks.append(clock.monotonic() - 1000)

    task = asyncio.create_task(tick())
    await fake_clock.advance(3.5)
    assert ticks == [1, 2, 3]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert fake_clock.sleeping() == 0
    await fake_clock.advance(5)
    assert ticks == [1, 2, 3]


async def test_next_sleep_waits_for_a_sleep_and_returns_its_seconds(fake_clock, clock):
    waiting = asyncio.create_task(fake_clock.next_sleep())
    await fake_clock.settle()
    assert not waiting.done()
    sleeping = asyncio.create_task(clock.sleep(7))
    assert await waiting == 7
    assert await fake_clock.next_sleep() == 7, "a pending sleep counts"
    await fake_clock.advance(7)
    assert sleeping.done()


async def test_a_step_of_the_wall_clock_wakes_no_sleeper(fake_clock, clock):
    sleeping = asyncio.create_task(clock.sleep(10))
    await fake_clock.settle()
    fake_clock.wall_now -= 3600
    await fake_clock.advance(9)
    assert not sleeping.done()
    assert clock.wall() == pytest.approx(1_772_442_000 - 3600 + 9)
    await fake_clock.advance(1)
    assert sleeping.done()


async def test_a_sleep_of_a_skipping_clock_returns_at_once_and_moves_its_time():
    skipping = SkippingClock(monotonic=10.0)
    await skipping.as_clock().sleep(3600)
    assert skipping.as_clock().monotonic() == 3610.0
