"""What coderd, or whatever stands in front of it, answered instead of the claim stream. Pure: bytes in, a name out."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from agentd.coderd import stream_faults as faults

BODY_MAX_BYTES = 4096
RETRY_AFTER_MAX_S = 300.0
# coderd's own words for "no such endpoint"; any other 404 is somebody else's.
ROUTE_ABSENT = "Route not found."

_BY_STATUS: dict[int, type[faults.Refused]] = {
    204: faults.StopAsked,
    401: faults.Unauthorized,
    409: faults.Conflict,
    429: faults.RateLimited,
}


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, *, now_unix_s: float
) -> faults.Refused | None:
    """None when this is the stream: status 200 and exactly `text/event-stream`, unencoded.

    `headers` is looked up case-insensitively by the caller's mapping; `body` is the start of the error body (at most
    `BODY_MAX_BYTES` are looked at), which may be coderd's JSON, a proxy's HTML or anything.
    """
    message, detail = _coder_words(body[:BODY_MAX_BYTES])
    kind, text = _kind(status, headers, message)
    if kind is None:
        return None
    said = ": ".join(part for part in (message, detail) if part)
    return kind(
        f"{text}: {said}" if said else text,
        status=status,
        body_message=message,
        detail=detail,
        retry_after_s=retry_after_s(headers.get("retry-after", ""), now_unix_s=now_unix_s),
        request_id=headers.get("x-coder-request-id", "")[:64],
    )


def _kind(status: int, headers: Mapping[str, str], message: str) -> tuple[type[faults.Refused] | None, str]:
    if status == 200:
        return _kind_of_200(headers)
    if status == 404:
        absent = message == ROUTE_ABSENT
        return (faults.RouteAbsent if absent else faults.NotFound), "the server answered 404"
    if 300 <= status < 400:
        return (
            faults.Redirected,
            f"the server redirects ({status}) to {_origin(headers.get('location', ''))}, not followed",
        )
    if status >= 500:
        return faults.ServerFailed, f"the server answered {status}"
    return _BY_STATUS.get(status, faults.UnexpectedStatus), f"the server answered {status}"


def _kind_of_200(headers: Mapping[str, str]) -> tuple[type[faults.Refused] | None, str]:
    mime = headers.get("content-type", "").partition(";")[0].strip().lower()
    if mime in ("text/html", "application/xhtml+xml"):
        return (
            faults.HtmlPage,
            "a web page came in place of the stream (a proxy, or coder.url points at the dashboard)",
        )
    if mime != "text/event-stream":
        return faults.WrongContentType, f"the answer is {mime[:80] or 'of no type'}, not text/event-stream"
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        return (
            faults.ContentEncoded,
            f"the stream is compressed ({encoding[:40]}) although that was not asked for",
        )
    return None, ""


def _coder_words(body: bytes) -> tuple[str, str]:
    """`message` and `detail` of coderd's error body; both empty when it is anything else."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(parsed, dict):
        return "", ""
    message, detail = parsed.get("message"), parsed.get("detail")
    return (
        message[:500] if isinstance(message, str) else "",
        detail[:1000] if isinstance(detail, str) else "",
    )


def retry_after_s(value: str, *, now_unix_s: float) -> float | None:
    """Seconds of a `Retry-After` header (seconds or an HTTP date), within 0..`RETRY_AFTER_MAX_S`; None when absent."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), RETRY_AFTER_MAX_S)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max((at - datetime.fromtimestamp(now_unix_s, UTC)).total_seconds(), 0.0), RETRY_AFTER_MAX_S)


def _origin(location: str) -> str:
    # Path and query of a redirect may carry credentials of a login portal; the origin is what an operator needs.
    try:
        parts = urlsplit(location)
        return f"{parts.scheme}://{parts.hostname}" if parts.scheme and parts.hostname else "another path"
    except ValueError:
        return "an unreadable address"
