"""One raw value, from TOML or a string, becomes what its field wants, or a refusal that says what would be right."""

import csv
import math
import re
import types
import typing
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from agentd.config.schema import Key
from agentd.errors import ConfigError

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

_BOOLEANS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# httpx encodes header values as ASCII; anything else would fail at the first request instead of here.
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
# Set by agentd per request; a second one would make the request ambiguous or leak into another's session.
_OWN_HEADERS = {"coder-session-token", "content-length", "transfer-encoding"}


class _UnfitError(ValueError):
    """A value does not fit its field. The text continues a sentence that starts with the value."""


def parse(key: Key, raw: Any, origin: str) -> Any:  # noqa: ANN401 - typed by the field it fills
    """`raw` as the type of `key`'s field. Raises `ConfigError` naming the key, the origin and the remedy."""
    try:
        value = _convert(key, raw)
    except _UnfitError as exc:
        shown = _quotable(key, raw)
        raise ConfigError(f"{key.name}: {shown}{exc} ({origin})", hint=key.spec.doc) from None
    if isinstance(value, int | float) and not key.spec.low <= value <= key.spec.high:
        raise ConfigError(
            f"{key.name}: {_quotable(key, raw)}is out of range ({origin})",
            hint=f"choose a value from {key.spec.low:g} to {key.spec.high:g}",
        )
    return value


def loopback_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:PORT`, `localhost:PORT` or `[::1]:PORT`. Raises `ValueError` for any other."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]").lower()
    if host not in LOOPBACK or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise _UnfitError("is not a loopback address such as 127.0.0.1:8080")
    return host, int(port)


def _quotable(key: Key, raw: Any) -> str:  # noqa: ANN401 - whatever was given
    """`raw` for an error message, with a space behind it; empty where it may hold a secret or is no single value."""
    if key.spec.kind in ("secret", "headers") or not isinstance(raw, str | int | float):
        return ""
    if isinstance(raw, int) and raw.bit_length() > 128:
        return "a number this large "
    # A password in a URL, a token in a query: whatever is wrong with them, they stay out of the terminal and the log.
    if isinstance(raw, str) and ("://" in raw or "@" in raw or "?" in raw):
        return ""
    shown = ascii(raw)
    return f"{shown if len(shown) <= 80 else shown[:80] + '…'} "


def _convert(key: Key, raw: Any) -> Any:  # noqa: ANN401 - typed by the field it fills
    annotation = key.annotation
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return _one_of(raw, typing.get_args(annotation))
    if annotation is bool:
        return _boolean(raw)
    if annotation in (int, float):
        return _number(raw, annotation)
    if origin is tuple:
        words = _words(raw, quoted=key.spec.kind in ("headers", "patterns"))
        for place, word in enumerate(words, 1):
            _LIST_KINDS[key.spec.kind](place, word)
        return words
    if not isinstance(raw, str):
        raise _UnfitError("must be a string")
    if annotation is Path or origin is types.UnionType:
        return _path(raw, optional=annotation is not Path)
    return _TEXT_KINDS[key.spec.kind](raw.strip())


def _one_of(raw: Any, words: tuple[str, ...]) -> str:  # noqa: ANN401 - from TOML or a string
    in_any_case = {word.lower(): word for word in words}
    if not isinstance(raw, str) or raw.strip().lower() not in in_any_case:
        raise _UnfitError("is none of " + ", ".join(words))
    return in_any_case[raw.strip().lower()]


def _boolean(raw: Any) -> bool:  # noqa: ANN401 - from TOML or a string
    if isinstance(raw, bool):
        return raw
    if not isinstance(raw, str) or raw.strip().lower() not in _BOOLEANS:
        raise _UnfitError("is neither true nor false")
    return _BOOLEANS[raw.strip().lower()]


def _number(raw: Any, kind: type[int] | type[float]) -> int | float:  # noqa: ANN401 - from TOML or a string
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise _UnfitError("is not a number")
    if kind is int and isinstance(raw, float):
        raise _UnfitError("is not a whole number")
    try:
        value = kind(raw)
    except (ValueError, OverflowError):
        raise _UnfitError("is not a whole number" if kind is int else "is not a number") from None
    # NaN compares false with every bound and would pass for the largest wait of all.
    if isinstance(value, float) and not math.isfinite(value):
        raise _UnfitError("is not a finite number")
    return value


def _words(raw: Any, *, quoted: bool) -> tuple[str, ...]:  # noqa: ANN401 - from TOML or a string
    """A TOML list as it is; a string at its commas. `quoted` fields may hold commas, as in Coder's own variable."""
    items: Any = raw
    if isinstance(raw, str) and not quoted:
        items = raw.split(",")
    elif isinstance(raw, str):
        try:
            items = [field for row in csv.reader([raw], strict=True) for field in row]
        except csv.Error:
            raise _UnfitError("is not a list separated by commas, with fields quoted as in CSV") from None
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise _UnfitError("must be a list of strings")
    return tuple(item.strip() for item in items if item.strip())


def _header(place: int, word: str) -> None:
    name, equals, value = word.partition("=")
    if not equals or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        raise _UnfitError(f"entry {place} is not Name=value in plain ASCII")
    if name.lower() in _OWN_HEADERS:
        raise _UnfitError(f"entry {place} names {name}, which agentd sets itself")


def _destination(place: int, word: str) -> None:
    if word == "coder":
        return
    try:
        parts = urlsplit(word)
        credentials = parts.username is not None
    except ValueError:
        raise _UnfitError(f"entry {place} is not a URL") from None
    if not parts.scheme or "://" not in word or not word.isprintable() or " " in word:
        raise _UnfitError(f"entry {place} is neither coder nor a URL")
    if credentials:
        raise _UnfitError(f"entry {place} must not hold credentials")


def _path(raw: str, *, optional: bool) -> Path | None:
    if not raw:
        if optional:
            return None
        raise _UnfitError("must not be empty")
    if "\0" in raw:
        raise _UnfitError("is not a path")
    try:
        # Made absolute now, so that it means the same place whatever becomes of the working directory.
        return Path(raw).expanduser().absolute()
    except RuntimeError:
        raise _UnfitError("starts with ~, and there is no home directory") from None
    except OSError:
        raise _UnfitError("is relative, and there is no working directory") from None


def _variable(place: int, word: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", word):
        raise _UnfitError(f"entry {place} is not a variable's name")


def _pattern(place: int, word: str) -> None:
    try:
        re.compile(word)
    except re.error as exc:
        raise _UnfitError(f"entry {place} is not a regular expression: {exc}") from None


def _host(place: int, word: str) -> None:
    if not re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", word):
        raise _UnfitError(f"entry {place} is not a host such as coder.example.com")


def _plain(text: str) -> str:
    if not text.isprintable():
        raise _UnfitError("holds characters that cannot be printed")
    return text


def _secret(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise _UnfitError("holds characters that cannot stand in a header")
    return text


def _uuid(text: str) -> str:
    if not text:
        return text
    import uuid  # noqa: PLC0415 - 2 ms of the 60 that `agentd status --oneline` has, and it asks about no UUID

    try:
        # int(), which uuid.UUID relies on, takes other scripts' digits and underscores for digits.
        return str(uuid.UUID(text if text.isascii() and "_" not in text else ""))
    except ValueError:
        raise _UnfitError("is not a UUID") from None


def _url(text: str) -> str:
    # urlsplit drops tabs and newlines silently, so they are refused first.
    if not text.isprintable() or " " in text:
        raise _UnfitError("is not a URL")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _UnfitError("is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise _UnfitError("is not an http:// or https:// URL")
    if "@" in parts.netloc or "?" in text or "#" in text:
        raise _UnfitError("must hold neither credentials nor a query")
    return text.rstrip("/")


def _listen(text: str) -> str:
    if text:
        loopback_address(text)
    return text


_TEXT_KINDS: Final = {"plain": _plain, "secret": _secret, "uuid": _uuid, "url": _url, "listen": _listen}
_LIST_KINDS: Final = {
    "headers": _header,
    "destinations": _destination,
    "variables": _variable,
    "patterns": _pattern,
    "hosts": _host,
}
