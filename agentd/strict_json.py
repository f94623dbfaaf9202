"""Parse JSON that another program may have written. Pure.

Python's parser raises more than `ValueError` (`RecursionError` for deep nesting), and it accepts NaN, infinity (also as
`1e999`) and integers of any length. Those values raise `OverflowError` later, far from the file that they came from.
"""

import json
import math
from typing import Any, Final

_INT_MAX_CHARS: Final = 20
"""The digits of a 64-bit integer, and its sign."""


def loads(text: str | bytes) -> Any:  # noqa: ANN401 - JSON of any shape
    """The value of `text`. Raises `ValueError` for everything that is not JSON or holds no usable number."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_int64)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(name: str) -> Any:  # noqa: ANN401 - never returns
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _int64(text: str) -> int:
    if len(text) > _INT_MAX_CHARS:
        raise ValueError("a number is too large")
    return int(text)
