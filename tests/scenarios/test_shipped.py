"""Every shipped scenario holds, with the real daemon as a child process."""

import pytest

from agentd.simulator.scenario import file
from agentd.simulator.scenario.play import play


@pytest.mark.e2e
@pytest.mark.parametrize("path", file.shipped(), ids=lambda path: path.stem)
async def test_shipped_scenario_holds(path, tmp_path):
    verdict = await play(file.load(path), tmp_path)

    assert verdict.holds, f"step {verdict.failed.number}: {verdict.failed}\n  {verdict.why}"


def test_there_are_enough_of_them_and_each_says_what_it_shows():
    scenarios = [file.load(path) for path in file.shipped()]

    assert len(scenarios) >= 25
    assert len({scenario.title for scenario in scenarios}) == len(scenarios)
