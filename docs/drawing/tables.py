"""The tables of docs/architecture.md that are made from the code: states, and the modules of each package."""

import importlib
import re
from collections.abc import Mapping
from enum import Enum
from typing import Final

from drawing.source import Source

# `<!-- states MODULE NAME -->` or `<!-- modules PACKAGE -->`, the table, `<!-- end -->`.
MARK: Final = re.compile(
    r"<!-- (?P<kind>states|modules) (?P<module>[\w.]+)(?: (?P<name>\w+))? -->\n(?P<table>.*?)<!-- end -->",
    re.DOTALL,
)

# Packages whose own packages have one row each: they are not part of the daemon.
_SHORTENED: Final = ("simulator",)


def updated(text: str, source: Source) -> str:
    """`text` with every marked table as the code has it now."""

    def replace(mark: re.Match[str]) -> str:
        return f"{mark[0].partition(chr(10))[0]}\n{table(mark, source)}<!-- end -->"

    return MARK.sub(replace, text)


def table(mark: "re.Match[str]", source: Source) -> str:
    """The table that belongs to a mark."""
    if mark["kind"] == "states":
        return state_table(getattr(importlib.import_module(mark["module"]), mark["name"]))
    return module_table(mark["module"], source)


def state_table(transitions: Mapping[Enum, Mapping[Enum, Enum]]) -> str:
    """A row for each state, a column for each step, and in each cell the state that follows."""
    steps = list(dict.fromkeys(step for row in transitions.values() for step in row))
    rows = [["", *(str(step.value) for step in steps)], ["---"] * (len(steps) + 1)]
    for state, row in transitions.items():
        rows.append([f"**{state.value}**", *(str(row[step].value) if step in row else "" for step in steps)])
    return _markdown(rows)


def module_table(package: str, source: Source) -> str:
    """A row for each module of a package: its file, and the first paragraph of its docstring."""
    prefix = "" if package == "agentd" else f"{package}."
    rows = [["module", "what it does"], ["---", "---"]]
    for name, path in source.paths.items():
        inner = name.removeprefix(prefix)
        if not name.startswith(prefix):
            continue
        is_package = path.name == "__init__.py"
        is_shown = "." not in inner if package == "agentd" or package in _SHORTENED else True
        if is_shown and not (package == "agentd" and is_package):
            file = inner.replace(".", "/") + ("/" if is_package else ".py")
            rows.append([f"`{file}`", source.summary(name).replace("|", "\\|")])
    return _markdown(rows)


def _markdown(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
