"""Compares a found value with a wanted one. Pure.

A table matches when each of its keys matches; other keys of the found table are ignored. A table whose keys
are all operators is a comparison. Any other value matches when it is equal.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "at_least": lambda found, limit: _is_number(found) and found >= limit,
    "at_most": lambda found, limit: _is_number(found) and found <= limit,
    "contains": lambda found, part: isinstance(found, (str, list, dict)) and part in found,
    "lacks": lambda found, part: isinstance(found, (str, list, dict)) and part not in found,
    "starts_with": lambda found, text: isinstance(found, str) and found.startswith(text),
    "ends_with": lambda found, text: isinstance(found, str) and found.endswith(text),
    "matches": lambda found, pattern: isinstance(found, str) and re.search(pattern, found) is not None,
    "one_of": lambda found, values: found in values,
    "not": lambda found, value: found != value,
    "present": lambda found, wanted: (found is not None) == wanted,
}


def mismatch(found: object, wanted: object, where: str = "") -> str | None:
    """None when `found` matches `wanted`, else one line with the first difference: path, wanted, found."""
    if isinstance(wanted, Mapping):
        if wanted and all(name in OPERATORS for name in wanted):
            return next(
                (
                    f"{where}: wanted {name} {operand!r}, found {_short(found)}"
                    for name, operand in wanted.items()
                    if not OPERATORS[name](found, operand)
                ),
                None,
            )
        if not isinstance(found, Mapping):
            return f"{where}: wanted {dict(wanted)!r}, found {_short(found)}"
        for name, inner in wanted.items():
            difference = mismatch(found.get(name), inner, f"{where}.{name}" if where else str(name))
            if difference is not None:
                return difference
        return None
    if found == wanted and _is_bool(found) == _is_bool(wanted):
        return None
    return f"{where}: wanted {wanted!r}, found {_short(found)}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:200]} … {text[-200:]}"
