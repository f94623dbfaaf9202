"""docs/guarantees.md counts the inputs of `make attack`."""

import re
from pathlib import Path

from e2e.attack.answers import series

ROOT = Path(__file__).parents[1]


def counted():
    """The rows of the table: attack → number of inputs."""
    text = (ROOT / "docs" / "guarantees.md").read_text("utf-8").partition("## Attacks")[2]
    return {name: int(count) for name, count in re.findall(r"^\| (.+?) \| (\d+) \|", text, re.MULTILINE)}


def test_the_document_has_the_number_of_inputs_of_each_attack():
    inputs = {name: len(each) for name, each in series().items()}
    # `make attack` compares the number of planted files, which depends on the files that a daemon writes.
    assert inputs == {name: count for name, count in counted().items() if not name.startswith("files")}
