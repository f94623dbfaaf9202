"""Checks the daemon: whether one runs and answers, whether one could start, whether a stop has the time."""

import errno
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agentd import stop_timeout
from agentd.config import Config
from agentd.config.formats import loopback_address
from agentd.doctor import stop_time
from agentd.doctor.finding import Finding, fail, ok, warn
from agentd.state_dir import holder_pid

Status = Mapping[str, Any]


def check(
    config: Config, socket_path: Path, read_status: Callable[[], Status | None], last_end: str
) -> list[Finding]:
    """The findings about the daemon and its stop. Blocks. For the arguments see `check_installation`."""
    status = read_status()
    holder = holder_pid(config.state.dir)
    if status is not None:
        # A running daemon has replaced the record of the previous run; its status has a copy.
        last_end = (status.get("last_stop") or {}).get("ended", "")
    pid = status["pid"] if status is not None else holder or os.getpid()
    timeout = stop_timeout.configured_or(config, stop_timeout.of_unit(pid))
    budget_s = stop_timeout.fit_budget(config, timeout).shutdown.budget_s
    return [
        _check_daemon(config, socket_path, status, holder),
        stop_time.check(budget_s, timeout, stop_timeout.container_default(), last_end),
    ]


def _check_daemon(config: Config, socket_path: Path, status: Status | None, holder: int | None) -> Finding:
    """`holder` is the process id of the agentd that locks the state directory, as `holder_pid` returns it."""
    state_dir, listen = config.state.dir, config.local_api.listen
    if status is not None and holder not in (None, 0, status["pid"]):
        return fail(
            "daemon",
            f"two agentd daemons run: pid {status['pid']} answers on {socket_path},"
            f" pid {holder} holds {state_dir}",
            "stop one of them, or give each its own AGENTD_STATE_DIR and AGENTD_LOCAL_API_SOCKET",
        )
    if status is not None:
        return ok("daemon", f"agentd {status.get('version', '?')} answers, pid {status['pid']}")
    if holder is not None:
        holder_text = f"pid {holder or 'unknown'}"
        return fail(
            "daemon",
            f"agentd ({holder_text}) holds the lock of {state_dir},"
            f" but no daemon answers on {socket_path}: it uses another socket, or it hangs",
            f"stop {holder_text}, or give this daemon its own AGENTD_STATE_DIR",
        )
    if error := _bind_error(listen):
        remedy = "stop the program that listens there, or choose another port in AGENTD_LOCAL_API_LISTEN"
        return fail("daemon", f"local_api.listen: cannot listen on {listen}: {error}", remedy)
    remedy = "start it: `agentd run`, or `systemctl start agentd`"
    return warn("daemon", "no agentd runs on this state directory", remedy)


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
