"""The tables of states in docs/architecture.md are equal to those in the code."""

import enum
import importlib
import re
from pathlib import Path

import pytest
from drawing.tables import MARK, state_table

DOC = Path(__file__).parents[1] / "docs" / "architecture.md"
STATES = [mark for mark in MARK.finditer(DOC.read_text()) if mark["kind"] == "states"]


@pytest.mark.parametrize("found", STATES, ids=lambda found: found["name"])
def test_a_table_in_the_document_is_equal_to_the_code(found):
    table = getattr(importlib.import_module(found["module"]), found["name"])
    assert found["table"] == state_table(table), "run `make docs`"


def test_every_table_in_the_code_is_in_the_document():
    root = DOC.parents[1]
    in_code = {
        (".".join(path.relative_to(root).with_suffix("").parts), name)
        for path in (root / "agentd").rglob("*.py")
        for name in re.findall(r"^(\w*TRANSITIONS)\b", path.read_text(), re.MULTILINE)
    }
    assert {(found["module"], found["name"]) for found in STATES} == in_code


def test_a_table_has_a_row_for_each_state_and_a_column_for_each_step():
    assert state_table({State.OFF: {Step.START: State.ON}, State.ON: {Step.STOP: State.OFF}}) == (
        "|  | start | stop |\n| --- | --- | --- |\n| **off** | on |  |\n| **on** |  | off |\n"
    )


class State(enum.Enum):
    ON = "on"
    OFF = "off"


class Step(enum.Enum):
    START = "start"
    STOP = "stop"
