"""The output and the exit code of `agentd doctor`."""

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


def test_a_failure_exits_with_1_and_every_line_has_a_remedy(capsys):
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("fail  coderd    connection refused") for line in lines)
    assert all(" → " in line for line in lines if line.startswith(("fail", "warn")))


def test_json_has_every_check(capsys):
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert {tuple(check) for check in report["checks"]} == {("check", "level", "cause", "remedy")}


def test_an_invalid_configuration_is_the_only_finding(capsys, monkeypatch):
    monkeypatch.setenv("AGENTD_CODER_ULR", "http://coder.example")
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out == (
        "fail  config    AGENTD_CODER_ULR: unknown variable in the environment → did you mean AGENTD_CODER_URL?\n"
    )
