import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.snapshots.spool import Spool

VICTIM = Path(__file__).with_name("spool_victim.py")
TASK = "11111111-1111-4111-8111-111111111111"


@pytest.mark.crash
def test_a_kill_at_any_system_call_leaves_the_old_snapshot_or_the_new_one(tmp_path):
    done = subprocess.run(
        [sys.executable, str(VICTIM), str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    found = []
    for run in runs:
        spool = Spool(Path(run["directory"]))
        entry = spool.get(TASK)
        assert entry is not None, run
        assert not (spool.path / "quarantine").exists(), run
        text = json.loads(entry.payload)["messages"][0]["content"]
        assert text in (("old " * 5000).rstrip(), ("new " * 6000).rstrip()), run
        assert not entry.delivered_to("coder") or text.startswith("new"), run
        found.append((text[:3], entry.delivered_to("coder"), run["died"]))
    # Each of the three moments gives old, new, and new with a receipt, and ends with a child that was not killed.
    assert found.count(("new", True, False)) == 3
    assert {("old", False, True), ("new", False, True), ("new", True, True)} <= set(found)
    assert len(found) > 40
