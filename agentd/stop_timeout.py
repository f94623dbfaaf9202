"""The stop timeout: the time between SIGTERM and SIGKILL.

systemd reports it (`TimeoutStopSec` of the unit that a process runs in). An operator can configure it
(`shutdown.grace_s`). A container cannot read its own: the default of Docker is 10 s, that of Kubernetes 30 s.
"""

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from agentd.config import Config

MARGIN_S: Final = 1.0
"""Time that the process needs after its shutdown, for the interpreter's exit on a busy machine."""

_BUDGET_MIN_S: Final = 0.5
_SYSTEMCTL_TIMEOUT_S: Final = 2.0
_UNIT: Final = re.compile(r"/(?P<unit>[^/\n]+\.service)$", re.MULTILINE)
_USER_MANAGER: Final = re.compile(r"/user@\d+\.service/")
_SPAN: Final = re.compile(r"([0-9.]+) ?(us|ms|s|min|h|d|w|month|y)?")
_SECONDS: Final = {
    "us": 1e-6, "ms": 1e-3, "": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0,
    "month": 2_629_800.0, "y": 31_557_600.0,
}  # fmt: skip

Systemctl = Callable[[list[str]], str]
"""Runs systemctl with these arguments and returns its output."""


class StopTimeout(NamedTuple):
    """Seconds between SIGTERM and SIGKILL: None if unknown, infinity if SIGKILL is never sent.

    `source` names the unit or the configuration key that the value comes from. `extensible` is True if agentd
    can request more time while it stops (a unit of type notify).
    """

    seconds: float | None = None
    source: str = ""
    extensible: bool = False

    def is_enough_for(self, budget_s: float) -> bool | None:
        """Whether a shutdown of `budget_s` ends before SIGKILL; None if the timeout is unknown."""
        if self.extensible:
            return True
        return None if self.seconds is None else budget_s + MARGIN_S <= self.seconds


UNKNOWN: Final = StopTimeout()


def _run_systemctl(arguments: list[str]) -> str:
    command = ["systemctl", *arguments]
    quiet = subprocess.DEVNULL
    return subprocess.check_output(  # noqa: S603 - the unit's name comes from the kernel
        command, stdin=quiet, stderr=quiet, timeout=_SYSTEMCTL_TIMEOUT_S, text=True
    )


def configured_or(config: Config, unit: StopTimeout) -> StopTimeout:
    """The timeout from `shutdown.grace_s`, or `unit` if that is not set."""
    if not config.shutdown.grace_s:
        return unit
    return StopTimeout(config.shutdown.grace_s, config.origins.get("shutdown.grace_s", "shutdown.grace_s"))


def of_unit(pid: int, *, systemctl: Systemctl = _run_systemctl, proc: Path = Path("/proc")) -> StopTimeout:
    """The timeout of the systemd service of `pid`, `UNKNOWN` outside one. Blocks 10 ms, at most 2 s."""
    try:
        cgroup = (proc / str(pid) / "cgroup").read_text()
    except OSError:
        return UNKNOWN
    found = _UNIT.search(cgroup)
    if found is None:
        return UNKNOWN
    manager = ["--user"] if _USER_MANAGER.search(cgroup) else []
    try:
        output = systemctl([*manager, "show", "--property=TimeoutStopUSec,Type,MainPID", found["unit"]])
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    properties = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    return StopTimeout(
        _seconds(properties.get("TimeoutStopUSec", "")),
        f"TimeoutStopSec of {found['unit']}",
        # systemd accepts EXTEND_TIMEOUT_USEC only from the main process (NotifyAccess=main).
        extensible=properties.get("Type", "").startswith("notify") and properties.get("MainPID") == str(pid),
    )


def fit_budget(config: Config, timeout: StopTimeout) -> Config:
    """Reduce a default `shutdown.budget_s` so that it ends before SIGKILL. A configured budget stays."""
    if config.origins.get("shutdown.budget_s") != "default":
        return config
    if timeout.seconds is None or timeout.is_enough_for(config.shutdown.budget_s):
        return config
    budget_s = max(_BUDGET_MIN_S, timeout.seconds - MARGIN_S)
    return config._replace(
        shutdown=config.shutdown.with_values(budget_s=budget_s),
        origins={**config.origins, "shutdown.budget_s": timeout.source},
    )


def container_default(environ: Mapping[str, str] = os.environ, *, root: Path = Path("/")) -> str:
    """A sentence about the default timeout of the container runtime, "" outside a container."""
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return "the Kubernetes default is 30 s, unless the pod sets terminationGracePeriodSeconds"
    for mark, runtime in ((".dockerenv", "Docker"), ("run/.containerenv", "Podman")):
        if (root / mark).exists():
            command = f"`{runtime.lower()} stop -t`"
            return (
                f"the {runtime} default is 10 s, unless the container has a StopTimeout or {command} is used"
            )
    return ""


def _seconds(span: str) -> float | None:
    """Parse a time span as systemd prints it (`1min 30s`, `infinity`) to seconds; None for anything else."""
    if span == "infinity":
        return float("inf")
    parts = [_SPAN.fullmatch(part) for part in span.split()]
    if not parts or None in parts:
        return None
    return sum(float(part[1]) * _SECONDS[part[2] or ""] for part in parts if part)
