"""kill -9 at every ledger write, hook start and hook exit. The driver is a script of its own, so that it starts fast."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("claims_driver.py")
KILLS = 500


@pytest.mark.crash
def test_killed_anywhere_a_claim_ends_with_each_hook_done_once_or_visibly_failed(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, DRIVER, tmp_path, "0", "300"],
        capture_output=True, text=True, timeout=570, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    stories = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [story for story in stories if story["wrong"]] == []
    assert sum(story["killed"] for story in stories) >= KILLS
