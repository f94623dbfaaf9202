import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.backoff import Backoff


def ceilings(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next() for _ in range(count)]


def test_the_ceiling_doubles_up_to_the_cap():
    backoff = Backoff(first_s=1, cap_s=10, floor_s=0, draw=lambda: 1.0)
    assert ceilings(backoff, 6) == [1, 2, 4, 8, 10, 10]
    assert backoff.failures == 6


def test_a_reset_starts_with_the_first_delay():
    backoff = Backoff(first_s=1, cap_s=10, floor_s=0, draw=lambda: 1.0)
    ceilings(backoff, 5)
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next() == 1


def test_the_shortest_delay_is_the_floor():
    backoff = Backoff(first_s=1, cap_s=10, floor_s=0.25, draw=lambda: 0.0)
    assert set(ceilings(backoff, 50)) == {0.25}


@given(st.floats(0, 1), st.integers(0, 300))
def test_every_delay_is_between_the_floor_and_the_cap(draw, failures):
    backoff = Backoff(first_s=0.5, cap_s=30, floor_s=0.1, draw=lambda: draw)
    backoff.failures = failures
    assert 0.1 <= backoff.next() <= 30


def test_a_huge_number_of_failures_does_not_overflow():
    backoff = Backoff(first_s=1, cap_s=10, floor_s=0, draw=lambda: 1.0)
    backoff.failures = 10**9
    assert backoff.next() == 10


@pytest.mark.parametrize("times", [(1, 10, -0.1), (1, 10, 2), (11, 10, 0), (float("nan"), 10, 0)])
def test_contradictory_bounds_are_rejected(times):
    first_s, cap_s, floor_s = times
    with pytest.raises(ValueError, match="backoff needs"):
        Backoff(first_s=first_s, cap_s=cap_s, floor_s=floor_s)
