"""HTTP requests to the daemon over its unix socket.

Imports little, because `agentd status` must start quickly.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agentd import strict_json
from agentd.config import Config
from agentd.errors import AgentdError, UnavailableError

NOTHING_TO_SEND: Final = "the agent does not answer and the spool is empty"
_CHECK_SOCKET: Final = "check local_api.socket (AGENTD_LOCAL_API_SOCKET)"


class DaemonError(AgentdError):
    """The daemon returned an error."""


def daemon_socket(
    settings: Config, *, environ: Mapping[str, str] = os.environ, run: Path = Path("/run")
) -> Path:
    """The path of the daemon's socket: as configured, or the first default path that exists.

    The defaults are the state directory, then the runtime directories of a user service and of a system
    service. A shell does not have the service's `RUNTIME_DIRECTORY`.
    """
    own = settings.local_api.socket
    chosen = {settings.origins["local_api.socket"], settings.origins["state.dir"]} - {"default"}
    if chosen or os.path.exists(own):  # noqa: PTH110 - as below
        return own
    runtime = environ.get("XDG_RUNTIME_DIR")
    services = [Path(runtime) / "agentd" / own.name] if runtime else []
    services.append(run / "agentd" / own.name)
    # os.path.exists returns False for a directory without access; Path.exists raises PermissionError.
    return next((service for service in services if os.path.exists(service)), own)  # noqa: PTH110 - as above


def call(path: Path, method: str, route: str, *, body: object = None, timeout_s: float = 10.0) -> Any:  # noqa: ANN401 - JSON
    """Send one request to the daemon at socket `path` and return the parsed JSON. Raises as `fetch`."""
    body_bytes = fetch(path, method, route, body=body, timeout_s=timeout_s)
    try:
        return strict_json.loads(body_bytes or b"null")
    except ValueError as exc:
        raise UnavailableError(
            f"the process that listens on {path} is not agentd", hint=_CHECK_SOCKET
        ) from exc


def fetch(path: Path, method: str, route: str, *, body: object = None, timeout_s: float = 10.0) -> bytes:
    """Send one request to the daemon at socket `path` and return the body of the response.

    Raises `UnavailableError` without a daemon or an answer in time, `DaemonError` if the answer is an error.
    """
    # With HTTP/1.0 the response ends with the connection, so that no HTTP library is needed. Importing
    # http.client would take a quarter of the time of `status --oneline`.
    content = b"" if body is None else json.dumps(body).encode()
    kind = "" if body is None else "Content-Type: application/json\r\n"
    head = f"{method} {route} HTTP/1.0\r\nHost: localhost\r\n{kind}Content-Length: {len(content)}\r\n\r\n"
    try:
        status, reason, text = _exchange(path, head.encode("ascii") + content, timeout_s)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as exc:
        raise UnavailableError(
            f"no agentd listens on {path}", hint="check that `agentd run` is running with this configuration"
        ) from exc
    except PermissionError as exc:
        raise UnavailableError(
            f"cannot connect to {path}: it belongs to another user", hint="run this command as agentd's user"
        ) from exc
    except TimeoutError as exc:
        raise UnavailableError(
            f"agentd on {path} did not answer within {timeout_s:g} s", hint="see its log"
        ) from exc
    except OSError as exc:
        raise UnavailableError(
            f"the connection to agentd on {path} failed: {str(exc) or type(exc).__name__}", hint="see its log"
        ) from exc
    if status >= 400:
        raise _daemon_error(f"{status} {reason}", text)
    return text


def _exchange(path: Path, request: bytes, timeout_s: float) -> tuple[int, str, bytes]:
    """Returns status, reason and body. Raises `OSError`, or `UnavailableError` for an invalid response."""
    deadline = time.monotonic() + timeout_s
    response = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(request)
        while chunk := connection.recv(65_536):
            response += chunk
            connection.settimeout(max(0.001, deadline - time.monotonic()))
    head, _, body = bytes(response).partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit()):
        raise _invalid_response(path, "it is not HTTP" if response else "it is empty")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("content-length", str(len(body))) != str(len(body)):
        raise _invalid_response(path, "it is incomplete")
    return int(code), reason, body


def _invalid_response(path: Path, why: str) -> UnavailableError:
    return UnavailableError(f"no valid response from agentd on {path}: {why}", hint=_CHECK_SOCKET)


def _daemon_error(status: str, text: bytes) -> DaemonError:
    try:
        error = strict_json.loads(text)
        return DaemonError(error["message"], hint=error.get("detail", ""))
    except (ValueError, TypeError, KeyError):
        return DaemonError(status, hint=_CHECK_SOCKET)
