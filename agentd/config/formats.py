"""The formats of text values. Each function checks and normalizes one text, or raises `FormatError`.

The message of a `FormatError` continues a sentence that starts with the value, and does not repeat the value.
"""

import re
from typing import Final
from urllib.parse import urlsplit

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

AGENT_SOURCES: Final = ("auto", "none", "agentapi", "claude-code", "codex")

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# httpx encodes header values as ASCII. Without this check another character fails at the first request.
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
# agentd sets these for each request. A second value would make the request ambiguous or use another session.
_OWN_HEADERS: Final = {"coder-session-token", "content-length", "transfer-encoding"}


class FormatError(ValueError):
    """A value does not have the format of its key."""


def printable(text: str) -> str:
    if not text.isprintable():
        raise FormatError("contains characters that cannot be printed")
    return text


def header_safe(text: str) -> str:
    """A token, which is sent in a header."""
    if not (text.isascii() and text.isprintable()):
        raise FormatError("contains characters that are not allowed in a header")
    return text


def uuid(text: str) -> str:
    """A UUID in canonical form, or ""."""
    if not text:
        return text
    import uuid  # noqa: PLC0415 - takes 2 ms, and `agentd status --oneline` has 60 ms and needs no UUID

    try:
        # uuid.UUID uses int(), which also accepts underscores and digits of other scripts.
        return str(uuid.UUID(text if text.isascii() and "_" not in text else ""))
    except ValueError:
        raise FormatError("is not a UUID") from None


def agent_source(text: str) -> str:
    """A kind of agent, `auto` or `none`."""
    if text not in AGENT_SOURCES:
        raise FormatError(f"is not one of {', '.join(AGENT_SOURCES)}")
    return text


def url(text: str) -> str:
    """An http or https URL without credentials, query or fragment; a trailing slash is removed."""
    # urlsplit removes tabs and newlines without an error.
    if not text.isprintable() or " " in text:
        raise FormatError("is not a URL")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise FormatError("is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise FormatError("is not an http:// or https:// URL")
    if "@" in parts.netloc or "?" in text or "#" in text:
        raise FormatError("must contain neither credentials nor a query")
    return text.rstrip("/")


def listen_address(text: str) -> str:
    """A loopback address, or ""."""
    if text:
        loopback_address(text)
    return text


def loopback_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:PORT`, `localhost:PORT` or `[::1]:PORT`."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]").lower()
    if host not in LOOPBACK or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise FormatError("is not a loopback address such as 127.0.0.1:8080")
    return host, int(port)


def header(text: str) -> str:
    """An HTTP header as `Name=value`."""
    name, equals, value = text.partition("=")
    if not equals or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        raise FormatError("is not Name=value in plain ASCII")
    if name.lower() in _OWN_HEADERS:
        raise FormatError(f"names {name}, which agentd sets itself")
    return text


def destination(text: str) -> str:
    """`coder`, or a URL of any scheme without credentials."""
    if text == "coder":
        return text
    try:
        parts = urlsplit(text)
        has_credentials = parts.username is not None
    except ValueError:
        raise FormatError("is not a URL") from None
    if not parts.scheme or "://" not in text or not text.isprintable() or " " in text:
        raise FormatError("is neither coder nor a URL")
    if has_credentials:
        raise FormatError("must not contain credentials")
    return text


def variable(text: str) -> str:
    """The name of an environment variable."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise FormatError("is not the name of a variable")
    return text


def pattern(text: str) -> str:
    """A regular expression of Python."""
    try:
        re.compile(text)
    except re.error as exc:
        raise FormatError(f"is not a regular expression: {exc}") from None
    return text


def host(text: str) -> str:
    """A host name or an IPv6 address in brackets, with an optional port."""
    if not re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", text):
        raise FormatError("is not a host such as coder.example.com")
    return text
