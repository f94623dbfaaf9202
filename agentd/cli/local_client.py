"""Talk to the running daemon over its unix socket. Standard library only: `agentd status` must start quickly."""

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentd.config import Config
from agentd.errors import AgentdError, UnavailableError

_WHOSE = "check local_api.socket (AGENTD_LOCAL_API_SOCKET)"


class DaemonError(AgentdError):
    """The daemon answered with an error. `status` is the HTTP status."""

    def __init__(self, status: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class _NoAnswerError(Exception):
    """What came back is no whole HTTP answer."""


def daemon_socket(
    settings: Config, *, environ: Mapping[str, str] = os.environ, run: Path = Path("/run")
) -> Path:
    """Where the daemon listens: as configured, or else where it would by default, as a service or by hand.

    A service's socket is in the runtime directory systemd gives it, of which the shell we are typed in knows nothing.
    """
    own = settings.local_api.socket
    chosen = {settings.origins["local_api.socket"], settings.origins["state.dir"]} - {"default"}
    if chosen or os.path.exists(own):  # noqa: PTH110 - as below
        return own
    runtime = environ.get("XDG_RUNTIME_DIR")
    services = [Path(runtime) / "agentd" / own.name] if runtime else []
    services.append(run / "agentd" / own.name)
    # os.path.exists, unlike Path.exists, takes a directory we may not look into for one without a socket.
    return next((service for service in services if os.path.exists(service)), own)  # noqa: PTH110 - as above


def call(path: Path, method: str, route: str, *, body: object = None, timeout_s: float = 10.0) -> Any:  # noqa: ANN401 - JSON
    """One request to the daemon at socket `path`; returns the parsed answer. Raises as `fetch`."""
    answer = fetch(path, method, route, body=body, timeout_s=timeout_s)
    try:
        return json.loads(answer or b"null")
    except ValueError as exc:
        raise UnavailableError(f"what listens on {path} is no agentd", hint=_WHOSE) from exc


def fetch(path: Path, method: str, route: str, *, body: object = None, timeout_s: float = 10.0) -> bytes:
    """One request to the daemon at socket `path`; returns the answer's bytes.

    Raises `UnavailableError` when no daemon listens there or it does not answer within `timeout_s`, and `DaemonError`
    when it answers with an error.
    """
    try:
        status, reason, text = _exchange(path, _request(method, route, body), timeout_s)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as exc:
        raise UnavailableError(
            f"no agentd listens on {path}", hint="is `agentd run` up with this configuration?"
        ) from exc
    except PermissionError as exc:
        raise UnavailableError(
            f"the socket {path} belongs to another user", hint="run this as the user agentd runs as"
        ) from exc
    except TimeoutError as exc:
        raise UnavailableError(
            f"agentd on {path} did not answer within {timeout_s:g} s", hint="see its log"
        ) from exc
    except (OSError, _NoAnswerError) as exc:
        raise UnavailableError(
            f"agentd on {path} broke off: {str(exc) or type(exc).__name__}", hint="see its log"
        ) from exc
    if status >= 400:
        raise _refusal(status, reason, text)
    return text


def _request(method: str, route: str, body: object) -> bytes:
    """In HTTP/1.0, where the answer ends with the connection: http.client would be a quarter of `status --oneline`."""
    content = b"" if body is None else json.dumps(body).encode()
    kind = "" if body is None else "Content-Type: application/json\r\n"
    head = f"{method} {route} HTTP/1.0\r\nHost: localhost\r\n{kind}Content-Length: {len(content)}\r\n\r\n"
    return head.encode("ascii") + content


def _exchange(path: Path, request: bytes, timeout_s: float) -> tuple[int, str, bytes]:
    """Status, reason and body. Raises `OSError` (`TimeoutError` included) and `_NoAnswerError`."""
    deadline = time.monotonic() + timeout_s
    answer = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(request)
        while chunk := connection.recv(65_536):
            answer += chunk
            connection.settimeout(max(0.001, deadline - time.monotonic()))
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit()):
        raise _NoAnswerError("closed without an answer" if not answer else "that is no HTTP")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("content-length", str(len(body))) != str(len(body)):
        raise _NoAnswerError("the answer ended too early")
    return int(code), reason, body


def _refusal(status: int, reason: str, text: bytes) -> DaemonError:
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("message"), str):
        return DaemonError(status, f"{status} {reason}", hint=_WHOSE)
    return DaemonError(status, said["message"], hint=str(said.get("detail", "")))
