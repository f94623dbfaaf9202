"""Logging: dotted events and facts, JSON lines for machines and a readable console for people, secrets masked.

Use `log = log.get("claims")` at the top of a module's class or function and say each change once:
`log.warning("stream.lost", reason="idle 45s", retry_in_s=3.2)`.
"""

import logging
import sys
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

Format = Literal["auto", "json", "console"]
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
MASK = "[hidden]"

# Values that must never be printed, longest first so that a secret containing another is masked whole.
_secrets: list[str] = []


def get(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `room=name`."""
    return cast("FilteringBoundLogger", structlog.get_logger(room=name))


def conceal(secret: str) -> None:
    """Mask `secret` in every line from now on, wherever it turns up: in values, in errors, in tracebacks."""
    # Masking a very short value would blot out half of every line and protect nothing.
    if len(secret) >= 6 and secret not in _secrets:
        _secrets.append(secret)
        _secrets.sort(key=len, reverse=True)


def masked(text: str) -> str:
    """`text` with every known secret replaced."""
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def configure(*, level: str = "info", fmt: Format = "auto", stream: TextIO | None = None) -> None:
    """Set up the process's logging on `stream` (default stderr). `auto` means console on a terminal, JSON elsewhere."""
    out = sys.stderr if stream is None else stream
    console = fmt == "console" or (fmt == "auto" and out.isatty())
    renderer: structlog.typing.Processor
    if console:
        # The plain formatter: the rich one draws frames and prints local variables, tokens included.
        renderer = structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=28
        )
    else:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(
                fmt="%H:%M:%S.%f" if console else "iso", utc=not console, key="time"
            ),
            *([_console_time] if console else [structlog.processors.format_exc_info]),
            _mask_values,
            renderer,
            _mask_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=_Unbreakable(out)),  # type: ignore[arg-type]  # a text sink
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING, force=True)


class _Unbreakable:
    """A text sink that outlives its reader: a closed pipe or a full log disk must not stop the daemon."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> None:
        try:
            self._out.write(text)
        except UnicodeEncodeError:
            encoding = self._out.encoding or "ascii"
            self._out.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):
            self.lost = True

    def flush(self) -> None:
        try:
            self._out.flush()
        except (OSError, ValueError):
            self.lost = True

    lost = False


class _ToStructlog(logging.Handler):
    """Lines of libraries that use the standard logging module, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(LEVELS.values(), key=lambda value: abs(value - record.levelno))
        get(record.name).log(
            level, "library.message", text=record.getMessage(), exc_info=record.exc_info or None
        )


def _console_time(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = str(event.pop("time"))[:-3]
    return event


def _mask_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return cast("EventDict", _mask_any(event)) if _secrets else event


def _mask_any(value: Any) -> Any:  # noqa: ANN401 - log values are of any type
    match value:
        case str():
            return masked(value)
        case dict():
            return {key: _mask_any(item) for key, item in value.items()}
        case list() | tuple():
            return [_mask_any(item) for item in value]
        case BaseException():
            return masked(str(value) or type(value).__name__)
        case _:
            return value


def _mask_line(_logger: WrappedLogger, _method: str, line: Any) -> str:  # noqa: ANN401 - structlog types it as an event
    # A second pass over the finished line catches what only appears on rendering, such as tracebacks.
    return masked(str(line))
