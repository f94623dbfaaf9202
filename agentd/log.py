"""Logging: dotted events and facts, JSON lines for machines and a readable console for people, secrets masked.

Use `self._log = log.get("claims")` in a class, or `log.get(...)` in a function, and say each change once:
`log.warning("stream.lost", reason="idle 45s", retry_in_s=3.2)`.
"""

import enum
import json
import logging
import re
import sys
from typing import Any, Final, Literal, TextIO, cast
from urllib.parse import quote

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

Format = Literal["auto", "json", "console"]
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
MASK: Final = "[hidden]"
# Masking a very short value would blot out half of every line and protect nothing.
SECRET_MIN_CHARS: Final = 6
_DEPTH_MAX: Final = 8

_secrets: set[str] = set()
_pattern: re.Pattern[str] | None = None

# What a terminal would obey, and what some readers take for the end of a line.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
_LINE_ENDS: Final = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}


def get(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `component=name`."""
    return cast("FilteringBoundLogger", structlog.get_logger(component=name))


def conceal(secret: str) -> None:
    """Mask `secret` in every line from now on: in keys and values at any depth, in errors, in tracebacks.

    Also the ways it is written inside other text: escaped in JSON, in a `repr`, in a URL. Shorter than six characters
    is no secret.
    """
    global _pattern  # noqa: PLW0603 - logging is the process's, and so is what it hides
    if len(secret) < SECRET_MIN_CHARS or secret in _secrets:
        return
    _secrets.add(secret)
    forms = {form for known in _secrets for form in _written_forms(known)}
    # Longest first, so that a secret that contains another is masked whole.
    _pattern = re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)))


def concealed() -> tuple[str, ...]:
    """Every value that `conceal` was told."""
    return tuple(_secrets)


def masked(text: str) -> str:
    """`text` with every known secret replaced."""
    return text if _pattern is None else _pattern.sub(MASK, text)


def configure(*, level: str = "info", fmt: Format = "auto", stream: TextIO | None = None) -> None:
    """Set up the process's logging on `stream` (default stderr). `auto` means console on a terminal, JSON elsewhere."""
    out = _Unbreakable(sys.stderr if stream is None else stream)
    console = fmt == "console" or (fmt == "auto" and out.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            # Turned into text here, so that what an error says passes the mask like any other value.
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
        _plain_values,
        _most_telling_first,
        structlog.processors.JSONRenderer(ensure_ascii=ensure_ascii),
        _one_line,
    ]


def _console(*, colors: bool) -> list[Processor]:
    # The plain formatter: the rich one draws frames and prints local variables, tokens included.
    render = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=28
    )
    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False),
        _plain_values,
        _harmless_to_a_terminal,
        _whole_milliseconds,
        render,
    ]


def _written_forms(secret: str) -> set[str]:
    escaped = json.dumps(secret)[1:-1]
    go = escaped.translate({ord(char): f"\\u{ord(char):04x}" for char in "<>&"})  # as coderd writes JSON
    return {
        secret,
        escaped,
        go,
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        ascii(secret)[1:-1],
        repr(secret.encode("utf-8", "surrogatepass"))[2:-1],
        quote(secret, errors="surrogatepass"),
        quote(secret, safe="", errors="surrogatepass"),
    }


class _Unbreakable:
    """A text sink that outlives its reader: a closed pipe or a full log disk must not stop the daemon."""

    def __init__(self, out: TextIO | None) -> None:
        # None is what Python makes of a standard stream that was closed before it started.
        self._out = out
        self._encoding: str = getattr(out, "encoding", None) or "utf-8"
        self.lost = 0

    @property
    def utf8(self) -> bool:
        return self._encoding.lower().replace("-", "") == "utf8"

    def isatty(self) -> bool:
        try:
            return self._out is not None and self._out.isatty()
        except ValueError:
            return False

    def write(self, text: str) -> None:
        if self._out is None:
            return
        try:
            # A lone surrogate, for one, becomes \udc80, which is also how JSON writes it.
            self._out.write(text.encode(self._encoding, "backslashreplace").decode(self._encoding))
        except (OSError, ValueError):
            self.lost += 1

    def flush(self) -> None:
        try:
            if self._out is not None:
                self._out.flush()
        except (OSError, ValueError):
            self.lost += 1


class _ToStructlog(logging.Handler):
    """Lines of libraries that use the standard logging module, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(LEVELS.values(), key=lambda value: abs(value - record.levelno))
        get(record.name).log(
            level, "library.message", text=_message(record), exc_info=record.exc_info or None
        )


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a library's broken format must not break what it was doing
        return f"{record.msg} {record.args}"


def _plain_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return cast("EventDict", _plain(event))


def _plain(value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - log values are of any type
    """`value` as what JSON knows, every text in it masked. Nothing is left for a renderer to turn into text."""
    match value:
        case None | bool():
            return value
        case enum.Enum():
            return _plain(value.value, depth)
        case str():
            return masked(value)
        case int() | float():
            text = _text(value)
            # NaN, infinity and a number too long to print do not end in a digit, and JSON has no word for them.
            return value if text[-1].isdigit() and masked(text) == text else masked(text)
        case dict() if depth < _DEPTH_MAX:
            return {masked(_text(key)): _plain(item, depth + 1) for key, item in value.items()}
        case list() | tuple() | set() | frozenset() if depth < _DEPTH_MAX:
            return [_plain(item, depth + 1) for item in value]
        case _:
            return masked(_text(value))


def _text(value: Any) -> str:  # noqa: ANN401 - log values are of any type
    try:
        return str(value) or type(value).__name__
    except Exception:  # noqa: BLE001 - a value that cannot say what it is must not break the line
        return f"<{type(value).__name__}>"


def _most_telling_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = {name: event.pop(name) for name in ("time", "level", "event") if name in event}
    return {**first, **event}


def _whole_milliseconds(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = event["timestamp"][:-3]
    return event


def _harmless_to_a_terminal(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Without the control characters that hook output or an agent's screen may hold; newlines and tabs stay."""
    return cast("EventDict", _without_controls(event))


def _without_controls(value: Any) -> Any:  # noqa: ANN401 - JSON
    match value:
        case str():
            return value.translate(_CONTROLS)
        case dict():
            return {key.translate(_CONTROLS): _without_controls(item) for key, item in value.items()}
        case list():
            return [_without_controls(item) for item in value]
        case _:
            return value


def _one_line(_logger: WrappedLogger, _method: str, line: Any) -> str:  # noqa: ANN401 - structlog types it as an event
    return cast("str", line).translate(_LINE_ENDS)
