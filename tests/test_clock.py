import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.clock import Clock, rfc3339


def test_a_clock_is_the_systems_unless_told_otherwise():
    clock = Clock()
    assert (clock.monotonic, clock.wall, clock.sleep) == (time.monotonic, time.time, asyncio.sleep)


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
def test_a_moment_is_written_in_utc_with_microseconds(unix_s, text):
    assert rfc3339(unix_s) == text


@pytest.mark.parametrize("unix_s", [float("nan"), float("inf"), 1e12, 1e300, -1e12])
def test_what_is_no_moment_is_refused(unix_s):
    with pytest.raises(ValueError):
        rfc3339(unix_s)


@given(st.floats(min_value=-62e9, max_value=253e9))
def test_moments_sort_as_their_text_does(unix_s):
    text = rfc3339(unix_s)
    assert len(text) == len("2026-03-02T09:00:00.000000Z")
    assert rfc3339(unix_s + 1) > text
