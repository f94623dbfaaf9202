"""The daemon's status as it changes: its event stream, or asking once a second where a daemon has none."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from agentd.cli.local_client import call
from agentd.errors import UnavailableError

ASK_EVERY_S: Final = 1.0
SILENCE_S: Final = 40.0
"""More than two heartbeats of the stream."""

# HTTP/1.0: the answer is not chunked and ends with the connection.
_REQUEST: Final = b"GET /v1/events HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"


def statuses(path: Path) -> Iterator[dict[str, Any]]:
    """The status now and after each change, for ever.  Raises `UnavailableError` when the daemon has gone."""
    # Once in the ordinary way: it says best why there is nobody.
    status = call(path, "GET", "/v1/status")
    yield status
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SILENCE_S)
            connection.connect(str(path))
            connection.sendall(_REQUEST)
            with connection.makefile("rb") as answer:
                if b" 200 " in answer.readline():
                    yield from _followed(answer, status)
                    raise UnavailableError(f"agentd on {path} has stopped")
    except OSError as exc:
        raise UnavailableError(f"agentd on {path} broke off: {exc}", hint="see its log") from exc
    while True:
        time.sleep(ASK_EVERY_S)
        yield call(path, "GET", "/v1/status")


def _followed(lines: Iterator[bytes], status: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`event: <key>`, `data: <its value>`; `status` is all of it."""
    event = ""
    for line in lines:
        name, _, value = line.decode("utf-8", "replace").rstrip("\n").partition(": ")
        if name == "event":
            event = value
        elif name == "data" and event:
            said = json.loads(value)
            status = said if event == "status" else {**status, event: said}
            yield status
