import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import PeerError
from agentd.retry import Backoff, wait_server_or_jitter


def ceilings(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next() for _ in range(count)]


def test_the_ceiling_doubles_up_to_the_cap():
    backoff = Backoff(first_s=1, cap_s=10, floor_s=0, draw=lambda: 1.0)
    assert ceilings(backoff, 6) == [1, 2, 4, 8, 10, 10]
    assert backoff.failures == 6


def test_a_reset_starts_over():
    backoff = Backoff(first_s=1, cap_s=10, floor_s=0, draw=lambda: 1.0)
    ceilings(backoff, 5)
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next() == 1


def test_the_luckiest_draw_still_pauses_for_the_floor():
    backoff = Backoff(first_s=1, cap_s=10, floor_s=0.25, draw=lambda: 0.0)
    assert set(ceilings(backoff, 50)) == {0.25}


@given(st.floats(0, 1), st.integers(0, 300))
def test_every_pause_lies_between_floor_and_cap(draw, failures):
    backoff = Backoff(first_s=0.5, cap_s=30, floor_s=0.1, draw=lambda: draw)
    backoff.failures = failures
    assert 0.1 <= backoff.next() <= 30


def test_years_of_failures_cost_no_more_than_one():
    backoff = Backoff(first_s=1, cap_s=10, floor_s=0, draw=lambda: 1.0)
    backoff.failures = 10**9
    assert backoff.next() == 10


@pytest.mark.parametrize("times", [(1, 10, -0.1), (1, 10, 2), (11, 10, 0), (float("nan"), 10, 0)])
def test_bounds_that_contradict_each_other_are_refused(times):
    first_s, cap_s, floor_s = times
    with pytest.raises(ValueError, match="backoff needs"):
        Backoff(first_s=first_s, cap_s=cap_s, floor_s=floor_s)


class AskedError(PeerError):
    def __init__(self, retry_after_s: float | None) -> None:
        super().__init__("later")
        self.retry_after_s = retry_after_s


def waits(error: Exception, tries: int) -> list[float]:
    """The pauses that tenacity makes between `tries` failing calls."""
    slept: list[float] = []
    policy = tenacity.Retrying(
        wait=wait_server_or_jitter(first_s=1, cap_s=4, server_cap_s=60),
        stop=tenacity.stop_after_attempt(tries),
        sleep=slept.append,
    )

    def fail() -> None:
        raise error

    with pytest.raises(tenacity.RetryError):
        policy(fail)
    return slept


@pytest.mark.parametrize(
    ("asked_s", "least_s"), [(30.0, 30), (0.0, 0), (-5.0, 0), (1e9, 60), (float("inf"), 60)]
)
def test_the_servers_wish_is_the_least_and_jitter_comes_on_top(asked_s, least_s):
    pauses = waits(AskedError(asked_s), 200)
    assert all(least_s <= pause <= least_s + 4 for pause in pauses)
    assert len(set(pauses)) > 100, "a fleet that was told one number must not come back in step"


@pytest.mark.parametrize("error", [AskedError(None), OSError("reset")])
def test_without_a_wish_it_is_jitter_below_a_growing_ceiling(error):
    for pauses in (waits(error, 8) for _ in range(50)):
        assert all(0 <= pause <= min(4, 2**count) for count, pause in enumerate(pauses))


def test_a_success_that_is_to_be_repeated_waits_as_well():
    slept: list[float] = []
    policy = tenacity.Retrying(
        wait=wait_server_or_jitter(first_s=1, cap_s=4),
        stop=tenacity.stop_after_attempt(3),
        retry=tenacity.retry_if_result(lambda done: not done),
        sleep=slept.append,
    )
    with pytest.raises(tenacity.RetryError):
        policy(lambda: False)
    assert len(slept) == 2
