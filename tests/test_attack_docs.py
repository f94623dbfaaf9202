"""docs/guarantees.md counts the inputs of `make attack`."""

import re
from pathlib import Path

from e2e.attack.answers import CONNECTIONS, series

ROOT = Path(__file__).parents[1]


def counted():
    """The rows of the table: attack → number of inputs."""
    text = (ROOT / "docs" / "guarantees.md").read_text("utf-8").partition("## Attacks")[2]
    return {name: int(count) for name, count in re.findall(r"^\| (.+?) \| (\d+) \|", text, re.MULTILINE)}


def test_the_document_has_the_number_of_inputs_of_each_attack():
    inputs = {name: len(each) for name, each in series().items()} | CONNECTIONS
    # `make attack` compares the number of planted files, which depends on the files that a daemon writes.
    assert inputs == {name: count for name, count in counted().items() if not name.startswith("files")}


def test_the_document_names_each_test_of_the_attack():
    text = (ROOT / "docs" / "guarantees.md").read_text("utf-8").partition("## Attacks")[2]
    named = set(re.findall(r"`tests/e2e/attack/test_attack\.py::(test_\w+)`", text))
    source = (ROOT / "tests" / "e2e" / "attack" / "test_attack.py").read_text("utf-8")
    written = set(re.findall(r"^async def (test_\w+)", source, re.MULTILINE))
    # The answers to a status update are not counted: how many are met depends on the reporter's pauses.
    assert named == written - {"test_hostile_answers_to_a_status_update"}
