"""The tables in docs/architecture.md are equal to those in the code."""

import importlib
import re
from pathlib import Path

import pytest

DOC = Path(__file__).parents[1] / "docs" / "architecture.md"
MARK = re.compile(r"<!-- table (?P<module>[\w.]+) (?P<name>\w+) -->\n(?P<body>.*?)<!-- end -->", re.DOTALL)


def rendered(table):
    steps = list(dict.fromkeys(step for row in table.values() for step in row))
    lines = [["", *(step.value for step in steps)], ["---"] * (len(steps) + 1)]
    for state, row in table.items():
        lines.append([f"**{state.value}**", *(row[step].value if step in row else "" for step in steps)])
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


@pytest.mark.parametrize("found", list(MARK.finditer(DOC.read_text())), ids=lambda found: found["name"])
def test_a_table_in_the_document_is_equal_to_the_code(found):
    table = getattr(importlib.import_module(found["module"]), found["name"])
    assert found["body"] == rendered(table)


def test_every_table_in_the_code_is_in_the_document():
    root = DOC.parents[1]
    in_code = {
        (".".join(path.relative_to(root).with_suffix("").parts), name)
        for path in (root / "agentd").rglob("*.py")
        for name in re.findall(r"^(\w*TRANSITIONS)\b", path.read_text(), re.MULTILINE)
    }
    assert {(found["module"], found["name"]) for found in MARK.finditer(DOC.read_text())} == in_code


if __name__ == "__main__":  # `python tests/test_docs_tables.py` updates the tables
    DOC.write_text(
        MARK.sub(
            lambda m: (
                f"<!-- table {m['module']} {m['name']} -->\n"
                f"{rendered(getattr(importlib.import_module(m['module']), m['name']))}<!-- end -->"
            ),
            DOC.read_text(),
        )
    )
