"""`agentd doctor` as it is typed: lines or JSON, and its exit code."""

import json

import pytest

from agentd.cli import main


@pytest.fixture(autouse=True)
def installation(tmp_path, monkeypatch):
    for name, value in {
        "HOME": str(tmp_path),
        "CODER_AGENT_URL": "http://127.0.0.1:1",
        "CODER_AGENT_TOKEN": "11111111-1111-4111-8111-111111111111",
        "AGENTD_AGENTAPI_URL": "http://127.0.0.1:1",
        "AGENTD_STATE_DIR": str(tmp_path / "state"),
    }.items():
        monkeypatch.setenv(name, value)


def test_a_failure_exits_with_1_and_every_line_says_what_to_do(capsys):
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("fail  coderd    connection refused") for line in lines)
    assert all(" → " in line for line in lines if line.startswith(("fail", "warn")))


def test_json_says_the_same_for_machines(capsys):
    assert main(["doctor", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    assert {tuple(check) for check in said["checks"]} == {("check", "level", "cause", "remedy")}


def test_a_configuration_that_cannot_be_read_is_the_one_finding(capsys, monkeypatch):
    monkeypatch.setenv("AGENTD_CODER_ULR", "http://coder.example")
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out == (
        "fail  config    AGENTD_CODER_ULR: unknown variable in the environment → did you mean AGENTD_CODER_URL?\n"
    )
