"""The output and the exit code of `agentd drill`."""

import json

import pytest

from agentd.cli import drill, main

REPORT = {
    "budget_s": 8.0,
    "took_s": 0.148,
    "fits": True,
    "grace_s": 20.0,
    "grace_told_by": "TimeoutStopSec of agentd.service",
    "parts": [
        {"name": "refresh", "took_s": 0.012, "allowed_s": 1.9, "outcome": "done", "detail": "10 messages from the agent"},
        {"name": "upload", "took_s": 0.0, "allowed_s": None, "outcome": "skipped", "detail": "exec:///x: …"},
    ],
}  # fmt: skip


def test_the_text_has_a_line_for_each_part_and_the_total():
    assert drill.as_text(REPORT, enough=True).splitlines() == [
        "Shutdown drill: nothing was stopped, nothing was stored.",
        "  refresh  0.012 s of 1.9 s 10 messages from the agent",
        "  upload   skipped          exec:///x: …",
        "  total    0.148 s of 8.0 s 7.9 s to spare",
        "  grace    20 s (TimeoutStopSec of agentd.service): enough",
    ]


@pytest.mark.parametrize(("enough", "words"), [(False, "TOO SHORT"), (None, "unknown")])
def test_the_stop_timeout_is_compared_with_the_budget(enough, words):
    assert words in drill.as_text(REPORT, enough=enough).splitlines()[-1]


@pytest.fixture
def no_peers(tmp_path, monkeypatch):
    for name, value in {
        "HOME": str(tmp_path),
        "CODER_AGENT_URL": "http://127.0.0.1:1",
        "CODER_AGENT_TOKEN": "11111111-1111-4111-8111-111111111111",
        "AGENTD_AGENTAPI_URL": "http://127.0.0.1:1",
        "AGENTD_STATE_DIR": str(tmp_path / "state"),
    }.items():
        monkeypatch.setenv(name, value)


def test_without_a_daemon_and_peers_the_drill_fails_and_names_the_parts(no_peers, capsys):
    assert main(["drill", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert {part["name"]: part["outcome"] for part in report["parts"]} == {
        "refresh": "failed", "fit": "done", "spool": "done", "upload": "failed",
    }  # fmt: skip


def test_a_stop_timeout_below_the_budget_fails_the_drill(no_peers, monkeypatch, capsys):
    monkeypatch.setenv("AGENTD_SHUTDOWN_GRACE_S", "3")
    monkeypatch.setenv("AGENTD_SHUTDOWN_BUDGET_S", "8")
    assert main(["drill"]) == 1
    assert "grace    3 s (environment AGENTD_SHUTDOWN_GRACE_S): TOO SHORT" in capsys.readouterr().out
