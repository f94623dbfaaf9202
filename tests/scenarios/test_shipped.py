"""Runs the shipped scenarios with the real daemon as a child process."""

import pytest

from agentd.simulator.scenario import file
from agentd.simulator.scenario.execute import execute

# One scenario for each subject: claim stream, hooks, agent, uploads, status reports, eras, stop.
SAMPLE = {
    "agent-restart",
    "era-e1-missed",
    "kill9-hook",
    "status-reports",
    "stop-coderd-down",
    "stream-reset",
    "upload-errors",
}


def all_or_long() -> list[object]:
    return [
        pytest.param(path, id=path.stem, marks=[] if path.stem in SAMPLE else [pytest.mark.long])
        for path in file.shipped()
    ]


@pytest.mark.e2e
@pytest.mark.parametrize("path", all_or_long())
async def test_shipped_scenario_passes(path, tmp_path):
    verdict = await execute(file.load(path), tmp_path)

    assert verdict.passed, f"step {verdict.failed.number}: {verdict.failed}\n  {verdict.why}"


def test_there_are_many_scenarios_and_each_has_its_own_title():
    scenarios = [file.load(path) for path in file.shipped()]

    assert len(scenarios) >= 25
    assert len({scenario.title for scenario in scenarios}) == len(scenarios)
    assert {path.stem for path in file.shipped()} > SAMPLE
