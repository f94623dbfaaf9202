"""What a run leaves about its end, and what the next one makes of it."""

import os

import pytest
from structlog.testing import capture_logs

from agentd.daemon.last_stop import NAME, LastStop, RunState, read


def test_the_first_run_has_nothing_to_complain_about(tmp_path, clock):
    last = LastStop(tmp_path, clock)
    assert last.previous is None
    with capture_logs() as lines:
        last.complain()
    assert lines == []


def test_a_run_that_ended_in_order_is_no_reason_to_complain(tmp_path, clock):
    run = LastStop(tmp_path, clock)
    run.running()
    run.stopping("SIGTERM", 8)
    run.stopped("delivered")
    after = LastStop(tmp_path, clock)
    assert after.previous.as_json() == {
        "ended": "in_order",
        "started_at": after.previous.started_at,
        "reason": "SIGTERM",
        "began_at": after.previous.began_at,
        "ended_at": after.previous.ended_at,
        "budget_s": 8,
        "outcome": "delivered",
    }
    with capture_logs() as lines:
        after.complain()
    assert lines == []


@pytest.mark.parametrize(("steps", "verdict"), [(1, "killed"), (2, "cut_off")])
def test_a_run_that_was_killed_is_told_by_how_far_it_had_come(tmp_path, clock, steps, verdict):
    run = LastStop(tmp_path, clock)
    [step() for step in (run.running, lambda: run.stopping("SIGTERM", 8))[:steps]]
    after = LastStop(tmp_path, clock)
    with capture_logs() as lines:
        after.complain()
    assert [(line["event"], line["ended"]) for line in lines] == [("agentd.last_stop_cut_off", verdict)]


def test_the_file_tells_the_present_run_once_it_has_begun(tmp_path, clock):
    LastStop(tmp_path, clock).running()
    assert read(tmp_path).state is RunState.RUNNING


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"state":"asleep"}', b'{"state":"running","x":1}', b"\xff"])  # fmt: skip
def test_a_file_nobody_can_read_counts_as_none(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    assert read(tmp_path) is None


def test_a_disk_that_takes_nothing_costs_the_warning_only(tmp_path, clock, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    run = LastStop(tmp_path, clock)
    monkeypatch.setattr(os, "write", full)
    with capture_logs() as lines:
        run.stopping("SIGTERM", 8)
    assert [line["event"] for line in lines] == ["last_stop.not_kept"]
