"""The daemon's status after every change, from its event stream or, without one, by polling."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from agentd.cli.local_client import call
from agentd.errors import UnavailableError

POLL_INTERVAL_S: Final = 1.0
STREAM_TIMEOUT_S: Final = 40.0
"""Longer than two heartbeat intervals of the stream."""

# With HTTP/1.0 the response is not chunked and ends with the connection.
_REQUEST: Final = b"GET /v1/events HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"


def statuses(path: Path) -> Iterator[dict[str, Any]]:
    """The status, now and after each change. Raises `UnavailableError` when the daemon ends."""
    # The first request is an ordinary one, because its errors explain why no daemon answers.
    status = call(path, "GET", "/v1/status")
    yield status
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(STREAM_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(_REQUEST)
            with connection.makefile("rb") as response:
                if b" 200 " in response.readline():
                    yield from _updates(response, status)
                    raise UnavailableError(f"agentd on {path} has stopped")
    except OSError as exc:
        raise UnavailableError(
            f"the connection to agentd on {path} failed: {exc}", hint="see its log"
        ) from exc
    while True:
        time.sleep(POLL_INTERVAL_S)
        yield call(path, "GET", "/v1/status")


def _updates(lines: Iterator[bytes], status: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The status after each event. An event replaces one key of `status`; the event `status` replaces all."""
    event = ""
    for line in lines:
        name, _, value = line.decode("utf-8", "replace").rstrip("\n").partition(": ")
        if name == "event":
            event = value
        elif name == "data" and event:
            changed = json.loads(value)
            status = changed if event == "status" else {**status, event: changed}
            yield status
