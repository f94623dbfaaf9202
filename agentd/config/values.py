"""Converts a raw value (from TOML, or a string) to the type of its key."""

import csv
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from agentd.config.formats import FormatError
from agentd.config.section import Key
from agentd.errors import ConfigError

_BOOLEANS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def parse(key: Key, raw: Any, origin: str) -> Any:  # noqa: ANN401 - the key decides the type
    """`raw` as a value of `key`. Raises `ConfigError` with key, value, origin and help text."""
    try:
        value = _convert(key, raw)
    except FormatError as exc:
        raise ConfigError(f"{key.name}: {_quoted(key, raw)}{exc} ({origin})", hint=key.doc) from None
    if isinstance(value, int | float) and not key.low <= value <= key.high:
        raise ConfigError(
            f"{key.name}: {_quoted(key, raw)}is out of range ({origin})",
            hint=f"choose a value from {key.low:g} to {key.high:g}",
        )
    return value


def _quoted(key: Key, raw: Any) -> str:  # noqa: ANN401 - any input
    """`raw` for an error message, with a space after it; "" for a possible secret and for a list or table."""
    if key.secret or not isinstance(raw, str | int | float):
        return ""
    if isinstance(raw, int) and raw.bit_length() > 128:
        return "a number this large "
    # A URL may contain a password or a token, which must not reach the terminal or the log.
    if isinstance(raw, str) and ("://" in raw or "@" in raw or "?" in raw):
        return ""
    shown = ascii(raw)
    return f"{shown if len(shown) <= 80 else shown[:80] + '…'} "


def _convert(key: Key, raw: Any) -> Any:  # noqa: ANN401 - the key decides the type
    annotation = key.annotation
    origin = typing.get_origin(annotation)
    if origin is Literal:
        choices = typing.get_args(annotation)
        values = {choice.lower(): choice for choice in choices}
        return _choice(raw, values, f"is none of {', '.join(choices)}")
    if annotation is bool:
        return raw if isinstance(raw, bool) else _choice(raw, _BOOLEANS, "is neither true nor false")
    if annotation in (int, float):
        return _number(raw, annotation)
    if origin is tuple:
        return _list(key, raw)
    if not isinstance(raw, str):
        raise FormatError("must be a string")
    if annotation is Path or origin is types.UnionType:
        return _path(raw, optional=annotation is not Path)
    return key.format(raw.strip())


def _choice(raw: Any, values: Mapping[str, Any], otherwise: str) -> Any:  # noqa: ANN401 - from TOML or a string
    """The value of a word in any case."""
    if not isinstance(raw, str) or raw.strip().lower() not in values:
        raise FormatError(otherwise)
    return values[raw.strip().lower()]


def _number(raw: Any, kind: type[int] | type[float]) -> int | float:  # noqa: ANN401 - from TOML or a string
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise FormatError("is not a number")
    if kind is int and isinstance(raw, float):
        raise FormatError("is not a whole number")
    try:
        value = kind(raw)
    except (ValueError, OverflowError):
        raise FormatError("is not a whole number" if kind is int else "is not a number") from None
    # Every comparison with NaN is false, so the check of the range would not refuse it.
    if isinstance(value, float) and not math.isfinite(value):
        raise FormatError("is not a finite number")
    return value


def _list(key: Key, raw: Any) -> tuple[str, ...]:  # noqa: ANN401 - from TOML or a string
    entries = _entries(raw, as_csv=key.csv)
    checked = []
    for number, entry in enumerate(entries, 1):
        try:
            checked.append(key.format(entry))
        except FormatError as exc:
            raise FormatError(f"entry {number} {exc}") from None
        if key.unique and checked[-1] in checked[:-1]:
            raise FormatError(f"entry {number} repeats entry {checked.index(checked[-1]) + 1}")
    return tuple(checked)


def _entries(raw: Any, *, as_csv: bool) -> list[str]:  # noqa: ANN401 - from TOML or a string
    """The entries of a TOML list or of a string with commas, without empty ones and surrounding spaces."""
    items: Any = raw
    if isinstance(raw, str) and not as_csv:
        items = raw.split(",")
    elif isinstance(raw, str):
        try:
            items = [field for row in csv.reader([raw], strict=True) for field in row]
        except csv.Error:
            raise FormatError("is not a list separated by commas, with fields quoted as in CSV") from None
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise FormatError("must be a list of strings")
    return [item.strip() for item in items if item.strip()]


def _path(raw: str, *, optional: bool) -> Path | None:
    if not raw:
        if optional:
            return None
        raise FormatError("must not be empty")
    if "\0" in raw:
        raise FormatError("is not a path")
    try:
        # Absolute from here on, so that a later change of the working directory has no effect.
        return Path(raw).expanduser().absolute()
    except RuntimeError:
        raise FormatError("starts with ~, and there is no home directory") from None
    except OSError:
        raise FormatError("is relative, and there is no working directory") from None
