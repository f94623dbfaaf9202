"""Structured logging: dotted events with fields, as JSON lines or on a readable console, with secrets masked.

Use `self._log = log.get("claims")` in a class, or `log.get(...)` in a function. Log each change once:
`log.warning("stream.lost", reason="idle 45s", retry_in_s=3.2)`.
"""

import contextlib
import enum
import logging
import re
import string
import sys
from collections.abc import Callable
from typing import Any, Final, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

Format = Literal["auto", "json", "console"]
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
MASK: Final = "[hidden]"
# Masking a very short value would hide half of every line and protect nothing.
SECRET_MIN_CHARS: Final = 6
_DEPTH_MAX: Final = 8

_secrets: set[str] = set()
_pattern: re.Pattern[str] | None = None

# Control characters steer a terminal. Newlines and tabs are kept.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
# Some readers end a line at these, and JSON allows them unescaped.
_JSON_LINE_ENDS: Final = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}

# The parts of a secret's pattern. Each level of quoting doubles a backslash, so that 64 are six levels. Each level of
# URL encoding writes a percent sign as %25.
_BACKSLASH: Final = r"(?:\\|%(?:25){0,6}5[Cc])"
_BACKSLASHES_MAX: Final = 64
_BACKSLASHES: Final = f"{_BACKSLASH}{{1,{_BACKSLASHES_MAX}}}"
_NEVER_ESCAPED: Final = frozenset(string.ascii_letters + string.digits + "-_.")
_ESCAPE_LETTERS: Final = dict(zip("\0\a\b\t\n\v\f\r", "0abtnvfr", strict=True))
# The traceback of an exception group indents each line of a message, and a line ends at each of these.
_LINE_ENDS: Final = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
_INDENT: Final = "[ |]{0,32}"


def get(name: str) -> FilteringBoundLogger:
    """Return a logger whose lines carry `component=name`."""
    return cast("FilteringBoundLogger", structlog.get_logger(component=name))


def register_secret(secret: str) -> None:
    """Mask `secret` in every later line: in keys and values at any depth, in errors, in tracebacks.

    The forms that `repr`, JSON and URLs give it, also nested in one another, are masked too. So is each line of a
    secret that has several. A text shorter than `SECRET_MIN_CHARS` is never masked.
    """
    global _pattern  # noqa: PLW0603 - logging belongs to the process, and so do the secrets
    if len(secret) < SECRET_MIN_CHARS or secret in _secrets:
        return
    _secrets.add(secret)
    texts = {text for known in _secrets for text in (known, *map(str.strip, known.splitlines()))}
    # Longest first, so that a secret that contains another is masked whole.
    longest_first = sorted(texts, key=len, reverse=True)
    _pattern = re.compile(
        "|".join(pattern_of(text) for text in longest_first if len(text) >= SECRET_MIN_CHARS)
    )


def registered_secrets() -> tuple[str, ...]:
    """Return every value that `register_secret` accepted."""
    return tuple(_secrets)


def masked(text: str) -> str:
    """Return `text` with every registered secret replaced by `MASK`."""
    return text if _pattern is None else _pattern.sub(MASK, text)


def configure(*, level: str = "info", fmt: Format = "auto", stream: TextIO | None = None) -> None:
    """Configure logging on `stream`, by default stderr. `auto` is console on a terminal, JSON elsewhere."""
    out = _TolerantStream(sys.stderr if stream is None else stream)
    console = fmt == "console" or (fmt == "auto" and out.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            # Formatted here, so that a traceback is masked like any other value.
            structlog.processors.format_exc_info,
            *(_console(colors=out.isatty()) if console else _json_lines(ensure_ascii=not out.utf8)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", out)),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING, force=True)


def _json_lines(*, ensure_ascii: bool) -> list[Processor]:
    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _mask_values,
        _main_fields_first,
        structlog.processors.JSONRenderer(ensure_ascii=ensure_ascii),
        _escape_line_ends,
    ]


def _console(*, colors: bool) -> list[Processor]:
    # The plain formatter: the rich one prints local variables, tokens included.
    render = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=28
    )
    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False),
        _mask_values_and_escape_controls,
        _whole_milliseconds,
        render,
    ]


def pattern_of(secret: str) -> str:
    """Return a regular expression for `secret` in every form that it has inside other text.

    There are alternatives for each character, because the form depends on the text around the secret: `repr`
    escapes an apostrophe only if the text contains a double quote too.
    """
    pattern, before = "", ""
    # The backslashes before a character belong to its unit: an escape of the character adds to them.
    for backslashes, char in re.findall(r"(\\*)([^\\]|\Z)", secret):
        pattern += (_INDENT if before in _LINE_ENDS else "") + _unit_pattern(len(backslashes), char)
        before = char
    return pattern


def _unit_pattern(backslashes: int, char: str) -> str:
    """Return the pattern for `backslashes` backslashes and the `char` after them, empty at the end."""
    at_least = f"{_BACKSLASH}{{{backslashes},{_BACKSLASHES_MAX * (backslashes + 1)}}}" if backslashes else ""
    if not char or char in _NEVER_ESCAPED:
        return at_least + re.escape(char)
    # Encoded forms first: that of a percent sign starts with one.
    unescaped = "|".join([*_url_encoded(char), re.escape(char)])
    escaped = "|".join([unescaped, *_escape_sequences(char)])
    return f"{at_least}(?:{escaped})" if backslashes else f"(?:{unescaped}|{_BACKSLASHES}(?:{escaped}))"


def _url_encoded(char: str) -> list[str]:
    forms = [_percent_encoded(octets) for octets in _encodings(char)]
    # A web form writes a space as a plus sign, and a second encoding escapes that.
    return [*forms, r"\+", _percent_encoded(b"+")] if char == " " else forms


def _percent_encoded(octets: bytes) -> str:
    return "".join(f"%(?:25){{0,6}}(?i:{octet:02x})" for octet in octets)


def _escape_sequences(char: str) -> list[str]:
    """Return the patterns of the escape sequences for `char`, each without its first backslash."""
    code, utf16 = ord(char), char.encode("utf-16-be", "surrogatepass")
    sequences = [[f"x{byte:02x}" for byte in encoded] for encoded in _encodings(char)]
    sequences.append([f"u{utf16[at : at + 2].hex()}" for at in range(0, len(utf16), 2)])
    sequences.append([f"U{code:08x}"])
    if code <= 0xFF:
        sequences.append([f"x{code:02x}"])
    if char in _ESCAPE_LETTERS:
        sequences.append([_ESCAPE_LETTERS[char]])
    return [_BACKSLASHES.join(f"(?i:{part})" for part in parts) for parts in sequences]


def _encodings(char: str) -> set[bytes]:
    """Return `char` in UTF-8, and the undecodable byte that it may stand for."""
    encodings = {char.encode("utf-8", "surrogatepass")}
    if "\udc80" <= char <= "\udcff":
        encodings.add(char.encode("utf-8", "surrogateescape"))
    return encodings


class _TolerantStream:
    """Drops what a text stream does not accept: a closed pipe or a full log disk must not stop the daemon."""

    def __init__(self, out: TextIO | None) -> None:
        # Python sets a standard stream to None if it was closed before the process started.
        self._out = out
        self._encoding: str = getattr(out, "encoding", None) or "utf-8"
        self.utf8 = self._encoding.lower().replace("-", "") == "utf8"

    def isatty(self) -> bool:
        return self._out is not None and not self._out.closed and self._out.isatty()

    def write(self, text: str) -> None:
        # A lone surrogate becomes an escape such as \udc80, which is valid in JSON too.
        text = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
        with contextlib.suppress(OSError, ValueError):
            if self._out is not None:
                self._out.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._out is not None:
                self._out.flush()


class _ToStructlog(logging.Handler):
    """Passes the records of the standard logging module, which libraries use, to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(LEVELS.values(), key=lambda value: abs(value - record.levelno))
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a wrong format in a library must not raise an error in it
            text = f"{record.msg} {record.args}"
        get(record.name).log(level, "library.message", text=text, exc_info=record.exc_info or None)


def _mask_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return cast("EventDict", _cleaned(event, masked))


def _mask_values_and_escape_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Also escape the control characters in hook output or an agent's screen, except newlines and tabs."""
    return cast("EventDict", _cleaned(event, lambda text: masked(text).translate(_CONTROLS)))


def _cleaned(value: Any, clean: Callable[[str], str], depth: int = 0) -> Any:  # noqa: ANN401 - log values are of any type
    """Return `value` as JSON types with `clean` applied to every text, so that no renderer formats another one."""
    match value:
        case None | bool():
            return value
        case enum.Enum():
            return _cleaned(value.value, clean, depth)
        case str():
            return clean(value)
        case int() | float():
            text = _text(value)
            # NaN, infinity and a number too long to print do not end in a digit; JSON cannot express them.
            return value if text[-1].isdigit() and clean(text) == text else clean(text)
        case dict() if depth < _DEPTH_MAX:
            return {clean(_text(key)): _cleaned(item, clean, depth + 1) for key, item in value.items()}
        case list() | tuple() | set() | frozenset() if depth < _DEPTH_MAX:
            return [_cleaned(item, clean, depth + 1) for item in value]
        case _:
            return clean(_text(value))


def _text(value: Any) -> str:  # noqa: ANN401 - log values are of any type
    try:
        return str(value) or type(value).__name__
    except Exception:  # noqa: BLE001 - an error in a value's __str__ must not lose the line
        return f"<{type(value).__name__}>"


def _main_fields_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = {name: event.pop(name) for name in ("time", "level", "event") if name in event}
    return {**first, **event}


def _whole_milliseconds(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = event["timestamp"][:-3]
    return event


def _escape_line_ends(_logger: WrappedLogger, _method: str, line: Any) -> str:  # noqa: ANN401 - typed as event
    return cast("str", line).translate(_JSON_LINE_ENDS)
