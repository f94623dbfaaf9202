"""docs/scenarios.md has the names of all actions, subjects, operators, commands, faults and settings."""

from pathlib import Path

import pytest

from agentd.simulator import faults
from agentd.simulator.agentapi import response_faults, script
from agentd.simulator.agentapi.control import AgentControl
from agentd.simulator.coderd.control import CoderdControl
from agentd.simulator.scenario import actions, file, matching, subjects

TEXT = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text()
OWN_ACTIONS = {name for name in actions.names() if name in actions.ACTIONS}
NAMES = {
    "actions": OWN_ACTIONS,
    "subjects": subjects.names(),
    "operators": set(matching.OPERATORS),
    "coderd's commands": set(CoderdControl.COMMANDS),
    "the agent's commands": set(AgentControl.COMMANDS),
    "faults": (faults.EXCHANGE | faults.STREAM | response_faults.KINDS) - {"respond"},
    "coderd's settings": set(file._CODERD),
    "the agent's settings": set(file._AGENT),
    "script steps": set(script.ACTIONS),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_the_document_has_every_name(names):
    assert {name for name in names if f"`{name}`" not in TEXT} == set()


def test_the_example_is_a_valid_scenario(tmp_path):
    example = TEXT.split("```toml\n")[1].split("```")[0]
    path = tmp_path / "example.toml"
    path.write_text(example)
    assert len(file.load(path).steps) == 6
