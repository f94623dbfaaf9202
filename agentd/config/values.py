"""One raw value, from TOML or a string, becomes what its field wants, or a refusal that says what would be right."""

import math
import re
import types
import typing
import uuid
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from agentd.config.schema import Key
from agentd.errors import ConfigError


def parse(key: Key, raw: Any, origin: str) -> Any:  # noqa: ANN401 - typed by the field it fills
    """`raw` as the type of `key`'s field. Raises `ConfigError` naming the key, the origin and the remedy."""
    try:
        value = _convert(key, raw)
    except ValueError as exc:
        shown = "" if key.spec.kind in ("secret", "headers") else f"{raw!r} "
        raise ConfigError(f"{key.name}: {shown}{exc} ({origin})", hint=key.spec.doc) from exc
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and not key.spec.low <= value <= key.spec.high
    ):
        raise ConfigError(
            f"{key.name}: {value:g} is out of range ({origin})",
            hint=f"choose a value from {key.spec.low:g} to {key.spec.high:g}",
        )
    return value


def _convert(key: Key, raw: Any) -> Any:  # noqa: ANN401 - typed by the field it fills
    annotation = key.annotation
    origin = typing.get_origin(annotation)
    if origin is Literal:
        words = typing.get_args(annotation)
        if raw not in words:
            raise ValueError("is none of " + ", ".join(words))
        return raw
    if annotation is bool:
        return _boolean(raw)
    if annotation in (int, float):
        return _number(raw, annotation)
    if origin is tuple:
        return _words(raw, key.spec.kind)
    if not isinstance(raw, str):
        raise ValueError("must be a string")  # noqa: TRY004 - every refusal here is a ValueError by contract
    if annotation is Path or origin is types.UnionType:
        return Path(raw).expanduser()
    return _text(raw, key.spec.kind)


def _boolean(raw: Any) -> bool:  # noqa: ANN401 - from TOML or a string
    if isinstance(raw, bool):
        return raw
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    if not isinstance(raw, str) or raw.strip().lower() not in words:
        raise ValueError("is neither true nor false")
    return words[raw.strip().lower()]


def _number(raw: Any, kind: type[int] | type[float]) -> int | float:  # noqa: ANN401 - from TOML or a string
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise ValueError("is not a number")  # noqa: TRY004 - every refusal here is a ValueError by contract
    try:
        value = kind(raw)
    except (ValueError, OverflowError):
        raise ValueError("is not a whole number" if kind is int else "is not a number") from None
    if not math.isfinite(value) or (kind is int and isinstance(raw, float)):
        raise ValueError("is not a whole number" if kind is int else "is not a finite number")
    return value


def _words(raw: Any, kind: str) -> tuple[str, ...]:  # noqa: ANN401 - from TOML or a string
    items = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError("must be a list of strings")
    words = tuple(item.strip() for item in items if item.strip())
    if kind == "headers":
        for word in words:
            name, equals, value = word.partition("=")
            if (
                not equals
                or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name)
                or re.search(r"[\r\n\0]", value)
            ):
                raise ValueError(f"entry {words.index(word) + 1} is not Name=value")
    return words


def _text(raw: str, kind: str) -> str:
    text = raw.strip()
    if kind == "uuid" and text:
        try:
            return str(uuid.UUID(text))
        except ValueError:
            raise ValueError("is not a UUID") from None
    if kind == "url":
        return _url(text)
    if kind == "secret" and not (text.isascii() and text.isprintable()):
        raise ValueError("holds characters that cannot stand in a header")
    return text


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("is not an http:// or https:// URL")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must hold neither credentials nor a query")
    return text.rstrip("/")
