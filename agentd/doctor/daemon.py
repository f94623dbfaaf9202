"""Checks the daemon: whether one runs on the state directory and answers, and whether one could start."""

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentd.config.formats import loopback_address
from agentd.doctor.finding import Finding, fail, ok, warn
from agentd.local_api.unix_socket import SOCKET_PATH_MAX_BYTES
from agentd.state_dir import holder_pid


def valid_status(response: object) -> Mapping[str, Any] | None:
    """`response` if it is the `/v1/status` of an agentd, else None."""
    return response if isinstance(response, dict) and isinstance(response.get("pid"), int) else None


def pid(state_dir: Path, status: Mapping[str, Any] | None) -> int:
    """The process id of the daemon, that of this process without a daemon."""
    return status["pid"] if status is not None else holder_pid(state_dir) or os.getpid()


def check(state_dir: Path, socket_path: Path, listen: str, status: Mapping[str, Any] | None) -> list[Finding]:
    """One finding. `status` is the result of `valid_status`. Blocks for a few system calls."""
    holder = holder_pid(state_dir)
    if status is not None:
        return [_running(state_dir, socket_path, holder, status)]
    if holder is not None:
        holder_text = f"pid {holder or 'unknown'}"
        return [
            fail(
                "daemon",
                f"agentd ({holder_text}) holds the lock of {state_dir},"
                f" but no daemon answers on {socket_path}: it uses another socket, or it hangs",
                f"stop {holder_text}, or give this daemon its own AGENTD_STATE_DIR",
            )
        ]
    if len(os.fsencode(socket_path)) > SOCKET_PATH_MAX_BYTES:
        return [
            fail(
                "daemon",
                f"local_api.socket is longer than {SOCKET_PATH_MAX_BYTES} bytes",
                "set AGENTD_LOCAL_API_SOCKET to a shorter path",
            )
        ]
    error = _bind_error(listen)
    if error:
        return [
            fail(
                "daemon",
                f"local_api.listen: cannot listen on {listen}: {error}",
                "stop the program that listens there, or choose another port in AGENTD_LOCAL_API_LISTEN",
            )
        ]
    return [
        warn(
            "daemon",
            "no agentd runs on this state directory",
            "start it: `agentd run`, or `systemctl start agentd`",
        )
    ]


def _running(state_dir: Path, socket_path: Path, holder: int | None, status: Mapping[str, Any]) -> Finding:
    pid = status["pid"]
    if holder not in (None, 0, pid):
        return fail(
            "daemon",
            f"two agentd daemons run: pid {pid} answers on {socket_path}, pid {holder} holds {state_dir}",
            "stop one of them, or give each its own AGENTD_STATE_DIR and AGENTD_LOCAL_API_SOCKET",
        )
    return ok("daemon", f"agentd {status.get('version', '?')} answers, pid {pid}")


def _bind_error(listen: str) -> str:
    """Why the TCP port of the local API cannot be used; "" if it can."""
    if not listen:
        return ""
    host, port = loopback_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as exc:
            return "another program listens there" if exc.errno == errno.EADDRINUSE else str(exc.strerror)
    return ""
