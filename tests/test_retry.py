import pytest
from fakeclock import FakeClock

from agentd import retry
from agentd.clock import Clock
from agentd.errors import PeerError


class AskedError(PeerError):
    def __init__(self, retry_after_s: float | None) -> None:
        super().__init__("later")
        self.retry_after_s = retry_after_s


async def pauses(error: Exception, fake_clock: FakeClock, *, deadline_s: float) -> list[float]:
    """The delays between the tries of work that always fails, until the policy raises."""
    policy = retry.until(
        fake_clock.now + deadline_s,
        clock=Clock(monotonic=lambda: fake_clock.now, sleep=passing(fake_clock)),
        on=PeerError,
        first_s=1,
        cap_s=4,
        last_try_s=1,
    )

    async def work() -> None:
        raise error

    with pytest.raises(type(error)):
        await policy(work)
    return fake_clock.slept


def passing(fake_clock: FakeClock):
    async def sleep(seconds: float) -> None:
        fake_clock.slept.append(seconds)
        fake_clock.now += max(seconds, 0.001)

    return sleep


async def test_failing_work_is_retried_until_the_deadline_with_growing_jitter(fake_clock):
    slept = await pauses(AskedError(None), fake_clock, deadline_s=60)
    assert len(slept) > 14
    assert all(0 <= pause <= min(4, 2**count) for count, pause in enumerate(slept))
    assert sum(slept[:-1]) < 60 <= sum(slept) + 0.1 * len(slept)


async def test_the_delay_is_at_least_retry_after(fake_clock):
    slept = await pauses(AskedError(10.0), fake_clock, deadline_s=60)
    assert all(pause >= 10 for pause in slept[:5])


async def test_a_retry_after_beyond_the_deadline_gets_a_last_try_before_it(fake_clock):
    began = fake_clock.now
    slept = await pauses(AskedError(3600.0), fake_clock, deadline_s=60)
    assert slept[0] == 59
    assert fake_clock.now - began >= 60


async def test_another_error_is_not_retried(fake_clock):
    assert await pauses(OSError("reset"), fake_clock, deadline_s=60) == []
