"""The daemon: does one run on this state directory, does it answer where we ask, could one listen where it should."""

import errno
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentd.config.formats import loopback_address
from agentd.doctor.finding import Finding, fail, ok, warn
from agentd.state_dir import holder_pid
from agentd.tls import aiohttp

ASK_TIMEOUT_S = 3.0
# struct sockaddr_un holds 108 bytes, the last of them a NUL.
SOCKET_PATH_MAX_BYTES = 107


async def ask(path: Path) -> Mapping[str, Any] | None:
    """`/v1/status` of whoever listens on the socket; None when that is no agentd, or nobody."""
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=str(path)),
                timeout=aiohttp.ClientTimeout(total=ASK_TIMEOUT_S),
            ) as session,
            session.get("http://agentd/v1/status") as response,
        ):
            status = json.loads(await response.read())
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
        return None
    return status if isinstance(status, dict) and isinstance(status.get("pid"), int) else None


def pid(state_dir: Path, status: Mapping[str, Any] | None) -> int:
    """Process of the daemon, ours when there is none."""
    return status["pid"] if status is not None else holder_pid(state_dir) or os.getpid()


def examine(
    state_dir: Path, socket_path: Path, listen: str, status: Mapping[str, Any] | None
) -> list[Finding]:
    """One finding. `status` is the answer of `ask`. Blocks for a few system calls."""
    holder = holder_pid(state_dir)
    if status is not None:
        return [_answers(state_dir, socket_path, holder, status)]
    if holder is not None:
        return [
            fail(
                "daemon",
                f"agentd (pid {holder or 'unknown'}) holds {state_dir}, but nothing answers on {socket_path}:"
                " another agentd with other settings, or one that hangs",
                f"a second one cannot start: stop pid {holder or 'unknown'}, or give this one its own AGENTD_STATE_DIR",
            )
        ]
    if len(str(socket_path).encode()) > SOCKET_PATH_MAX_BYTES:
        return [
            fail(
                "daemon",
                f"local_api.socket is longer than {SOCKET_PATH_MAX_BYTES} bytes",
                "set AGENTD_LOCAL_API_SOCKET to a shorter path",
            )
        ]
    taken = _taken(listen)
    if taken:
        return [
            fail(
                "daemon",
                f"the port of local_api.listen ({listen}) cannot be had: {taken}",
                "stop what listens there, or choose another port in AGENTD_LOCAL_API_LISTEN",
            )
        ]
    return [
        warn(
            "daemon",
            "no agentd runs on this state directory",
            "start it: `agentd run`, or systemctl start agentd",
        )
    ]


def _answers(state_dir: Path, socket_path: Path, holder: int | None, status: Mapping[str, Any]) -> Finding:
    pid = status["pid"]
    if holder not in (None, 0, pid):
        return fail(
            "daemon",
            f"two agentd: pid {pid} answers on {socket_path}, pid {holder} holds {state_dir}",
            "stop one of them, or give each its own AGENTD_STATE_DIR and AGENTD_LOCAL_API_SOCKET",
        )
    return ok("daemon", f"agentd {status.get('version', '?')} answers, pid {pid}")


def _taken(listen: str) -> str:
    if not listen:
        return ""
    host, port = loopback_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            return "something else listens there" if error.errno == errno.EADDRINUSE else str(error.strerror)
    return ""
