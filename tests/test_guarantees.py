"""Every row of docs/guarantees.md names a test that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "guarantees.md").read_text()
ROWS = [
    line
    for line in TEXT.splitlines()
    if line.startswith("| ") and not re.match(r"\| (promise|attack|---)", line)
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_the_tests_of_a_promise_exist(row):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
    assert named, "the row names no test"
    for path, name in named:
        assert re.search(rf"def {name}\b", (ROOT / path).read_text()), f"{path} has no {name}"


def test_the_document_makes_promises():
    assert len(ROWS) > 20
