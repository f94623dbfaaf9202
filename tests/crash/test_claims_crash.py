"""SIGKILL at every ledger write, hook start and hook exit. The driver is a script, so that it starts fast."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

pytestmark = pytest.mark.crash

DRIVER = Path(__file__).with_name("claims_driver.py")


def check_cases(seeds: Iterable[int], tmp_path: Path, *, kills_per_case: float) -> None:
    ran = subprocess.run(
        [sys.executable, DRIVER, tmp_path, *map(str, seeds)],
        capture_output=True, text=True, timeout=570, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    cases = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [case for case in cases if case["wrong"]] == []
    assert sum(case["killed"] for case in cases) >= kills_per_case * len(cases)


def test_after_kills_at_sampled_points_each_hook_is_done_once_or_failed(tmp_path, seed):
    # A case's first kill is at point 1 + seed % 97.
    check_cases(range(seed, seed + 24 * 16, 16), tmp_path, kills_per_case=1)


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 300, 75))
def test_after_kills_at_any_point_each_hook_is_done_once_or_failed(tmp_path, first):
    check_cases(range(first, first + 75), tmp_path, kills_per_case=500 / 300)
