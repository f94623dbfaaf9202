"""Structured logging: dotted events with fields, as JSON lines or on a readable console, with secrets masked.

Use `self._log = log.get("claims")` in a class, or `log.get(...)` in a function. Log each change once:
`log.warning("stream.lost", reason="idle 45s", retry_in_s=3.2)`. `log_limit` limits events that a peer repeats.
"""

import atexit
import contextlib
import enum
import logging
import sys
from collections.abc import Callable
from typing import Any, Final, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from agentd import masking
from agentd.log_limit import LineLimiter

Format = Literal["auto", "json", "console"]
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
MASK: Final = masking.MASK
SECRET_MIN_CHARS: Final = masking.SECRET_MIN_CHARS
_DEPTH_MAX: Final = 8
LIBRARY_MAX_PER_MINUTE: Final = 10
"""Messages of one library logger; the others are counted."""

# Every log line is masked, so a module that logs finds here what it needs of `masking`.
register_secret: Final = masking.register_secret
registered_secrets: Final = masking.registered_secrets
masked: Final = masking.masked

# Control characters steer a terminal. Newlines and tabs are kept.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
# Some readers end a line at these, and JSON allows them unescaped.
_JSON_LINE_ENDS: Final = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}


def get(name: str) -> FilteringBoundLogger:
    """Return a logger whose lines carry `component=name`."""
    return cast("FilteringBoundLogger", structlog.get_logger(component=name))


def _emit(method: str, fields: EventDict) -> None:
    getattr(structlog.get_logger(), method)(**fields)


_limiter: Final = LineLimiter(_emit)
atexit.register(_limiter.flush)


def configure(*, level: str = "info", fmt: Format = "auto", stream: TextIO | None = None) -> None:
    """Configure logging on `stream`, by default stderr. `auto` is console on a terminal, JSON elsewhere."""
    _limiter.reset()
    out = _TolerantStream(sys.stderr if stream is None else stream)
    console = fmt == "console" or (fmt == "auto" and out.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            # Formatted here, so that a traceback is masked like any other value.
            structlog.processors.format_exc_info,
            _limiter,
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

    def __init__(self) -> None:
        super().__init__()
        # By logger: when its minute began, and its messages since.
        self._minutes: dict[str, tuple[float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        began, count = self._minutes.get(record.name, (float("-inf"), 0))
        if not 0 <= record.created - began < 60.0:
            if count > LIBRARY_MAX_PER_MINUTE:
                get(record.name).info("library.messages_dropped", count=count - LIBRARY_MAX_PER_MINUTE)
            began, count = record.created, 0
        self._minutes[record.name] = (began, count + 1)
        if count >= LIBRARY_MAX_PER_MINUTE:
            return
        level = min(LEVELS.values(), key=lambda value: abs(value - record.levelno))
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a wrong format in a library must not raise an error in it
            text = f"{record.msg} {record.args}"
        exc_info = record.exc_info or None
        if exc_info and record.name == "aiohttp.server":
            # A client sent what is not HTTP, or went away: the local API logs the errors of its own handlers itself.
            level, text, exc_info = LEVELS["info"], f"{text}: {type(exc_info[1]).__name__}", None
        get(record.name).log(level, "library.message", text=text, exc_info=exc_info)


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
