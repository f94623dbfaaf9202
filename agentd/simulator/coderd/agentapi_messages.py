"""Decodes AgentAPI's message list as coderd's Go structs do.

Unknown fields are dropped, missing fields get defaults, and a wrong type is an error.
"""

import calendar
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from agentd.simulator import gojson

ZERO_TIME: Final = "0001-01-01T00:00:00Z"
_ROOT: Final = "agentapisdk.MessagesResponseBody"
_LAYOUT: Final = "2006-01-02T15:04:05Z07:00"
_ELEMENTS: Final = (
    ("2006", r"\d{4}"),
    ("-", "-"),
    ("01", r"\d\d"),
    ("-", "-"),
    ("02", r"\d\d"),
    ("T", "T"),
    ("15", r"\d\d"),
    (":", ":"),
    ("04", r"\d\d"),
    (":", ":"),
    ("05", r"\d\d"),
    ("", r"(?:\.\d+)?"),
    ("Z07:00", r"Z|[+-]\d\d:\d\d"),
)


class NotTheStructError(ValueError):
    """The JSON does not fit the struct. The message is Go's."""


def decode(text: str) -> dict[str, Any]:
    """The first value of `text` as the fields `$schema` (if sent) and `messages` (None when missing).

    Raises `gojson.GoSyntaxError` when `text` is not JSON, `NotTheStructError` when a field has a wrong type.
    """
    value = gojson.first_value(text)
    if value is None:
        return {"messages": None}
    if not isinstance(value, gojson.Pairs):
        raise NotTheStructError(f"json: cannot unmarshal {_value(value)} into Go value of type {_ROOT}")
    data: dict[str, Any] = {}
    if value.has("$schema"):
        data["$schema"] = _string(value.field("$schema"), "MessagesResponseBody.$schema")
    messages = value.field("messages")
    if messages is not None and (not isinstance(messages, list) or isinstance(messages, gojson.Pairs)):
        raise _mismatch(messages, "MessagesResponseBody.messages", "[]agentapisdk.Message")
    return data | {"messages": None if messages is None else [_message(one) for one in messages]}


def texts(data: Mapping[str, Any]) -> Iterator[str]:
    """Every string of decoded data, except times."""
    yield data.get("$schema", "")
    for message in data["messages"] or ():
        yield message["content"]
        yield message["role"]


def _message(value: object) -> dict[str, Any]:
    if value is None:
        value = gojson.Pairs()
    if not isinstance(value, gojson.Pairs):
        raise _mismatch(value, "MessagesResponseBody.messages", "agentapisdk.Message")
    return {
        "content": _string(value.field("content"), "Message.messages.content"),
        "id": _int64(value.field("id"), "Message.messages.id"),
        "role": _string(value.field("role"), "Message.messages.role"),
        "time": ZERO_TIME if value.field("time") is None else rfc3339(value.field("time")),
    }


def _string(value: object, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or isinstance(value, gojson.Number):
        raise _mismatch(value, where, "string")
    return value


def _int64(value: object, where: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, gojson.Number):
        raise _mismatch(value, where, "int64")
    if not re.fullmatch(r"-?\d+", value) or not -(1 << 63) <= int(value) < 1 << 63:
        raise _mismatch(value, where, "int64")
    return int(value)


def rfc3339(value: object) -> str:
    """`value` as Go's `time.Time` decodes and encodes it: no trailing zeros, Z for UTC.

    Raises `NotTheStructError`.
    """
    if not isinstance(value, str) or isinstance(value, gojson.Number):
        raise NotTheStructError("Time.UnmarshalJSON: input is not a JSON string")
    parts, rest = [], value
    for layout, pattern in _ELEMENTS:
        found = re.match(pattern, rest, re.ASCII)
        if found is None:
            raise _unparsed(value, f": cannot parse {_quote(rest)} as {_quote(layout)}")
        parts.append(found.group())
        rest = rest[found.end() :]
    if rest:
        raise _unparsed(value, f": extra text: {_quote(rest)}")
    year, month, day, hour, minute, second = (int(parts[index]) for index in (0, 2, 4, 6, 8, 10))
    # Go has a year 0, which is a leap year like 4; Python's calendar starts at 1.
    last_day = calendar.monthrange(year or 4, month)[1] if 1 <= month <= 12 else 31
    for name, ok in (
        ("month", 1 <= month <= 12),
        ("hour", hour < 24),
        ("minute", minute < 60),
        ("second", second < 60),
        ("day", 1 <= day <= last_day),
    ):
        if not ok:
            raise _unparsed(value, f": {name} out of range")
    fraction = parts[11].rstrip("0").rstrip(".")
    return "".join(parts[:11]) + fraction + _zone(value, parts[12])


def _zone(value: str, zone: str) -> str:
    if zone == "Z" or zone[1:] == "00:00":
        return "Z"
    if int(zone[1:3]) > 23 or int(zone[4:6]) > 59:
        raise _unparsed(value, f": cannot parse {_quote(zone)} as {_quote('Z07:00')}")
    return zone


def _unparsed(value: str, why: str) -> NotTheStructError:
    return NotTheStructError(f"parsing time {_quote(value)} as {_quote(_LAYOUT)}{why}")


def _mismatch(value: object, where: str, go_type: str) -> NotTheStructError:
    return NotTheStructError(
        f"json: cannot unmarshal {_value(value)} into Go struct field {where} of type {go_type}"
    )


def _value(value: object) -> str:
    """How Go's error names a value: a number with its digits, any other value by its kind."""
    return f"number {value}" if isinstance(value, gojson.Number) else gojson.kind_of(value)


def _quote(text: str) -> str:
    return gojson.dumps(text, escape_html=False)
