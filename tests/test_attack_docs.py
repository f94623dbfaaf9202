"""docs/guarantees.md counts the inputs of `make attack`."""

import re
from pathlib import Path

from e2e.attack.answers import series

ROOT = Path(__file__).parents[1]


def test_the_document_has_the_number_of_inputs_of_each_attack():
    text = (ROOT / "docs" / "guarantees.md").read_text("utf-8").partition("## Attacks")[2]
    documented = {
        name: int(count) for name, count in re.findall(r"^\| (.+?) \| (\d+) \|", text, re.MULTILINE)
    }
    assert documented == {name: len(inputs) for name, inputs in series().items()}
