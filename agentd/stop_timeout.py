"""How long whoever stops us waits before it kills.

systemd tells (`TimeoutStopSec` of the unit a process runs in), an operator may tell (`shutdown.grace_s`), a container's
runtime never does: `docker stop` gives 10 s unless told otherwise, Kubernetes 30 s, and neither lets the container see
its own number.
"""

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from agentd.config import Config

MARGIN_S: Final = 1.0
"""What the process itself needs after its shutdown: interpreter's end, a busy machine."""

_ASK_TIMEOUT_S: Final = 2.0
_UNIT: Final = re.compile(r"/(?P<unit>[^/]+\.service)$")
_USER_MANAGER: Final = re.compile(r"/user@\d+\.service/")
_SPAN: Final = re.compile(r"([0-9.]+) ?(us|ms|s|min|h|d|w|month|y)?")
_SECONDS: Final = {
    "us": 1e-6, "ms": 1e-3, "": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0,
    "month": 2_629_800.0, "y": 31_557_600.0,
}  # fmt: skip

Ask = Callable[[list[str]], str]


class Grace(NamedTuple):
    """`seconds` between the wish to stop us and the kill: None when nobody tells, infinity when it never comes.

    `told_by` names who told. `extensible` is whether agentd can ask for more when it stops (a notify unit).
    """

    seconds: float | None = None
    told_by: str = ""
    extensible: bool = False

    def is_enough_for(self, budget_s: float) -> bool | None:
        """Whether a shutdown of `budget_s` ends before the kill; None when nobody knows."""
        if self.extensible:
            return True
        return None if self.seconds is None else budget_s + MARGIN_S <= self.seconds


UNKNOWN: Final = Grace()


def _systemctl(arguments: list[str]) -> str:
    done = subprocess.run(  # noqa: S603 - the unit's name comes from the kernel
        ["systemctl", *arguments],  # noqa: S607 - where it is differs by distribution
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_ASK_TIMEOUT_S,
        check=True,
        text=True,
    )
    return done.stdout


def of(config: Config, unit: Grace) -> Grace:
    """What the operator says, else what `unit`'s systemd says, which may be nothing."""
    if not config.shutdown.grace_s:
        return unit
    return Grace(config.shutdown.grace_s, config.origins.get("shutdown.grace_s", "shutdown.grace_s"))


def of_unit(pid: int, *, ask: Ask = _systemctl, proc: Path = Path("/proc")) -> Grace:
    """The grace of the systemd service process `pid` runs in, `UNKNOWN` where it runs in none.

    Blocks for the time of one `systemctl show`: 10 ms, 2 s at most.
    """
    try:
        cgroup = (proc / str(pid) / "cgroup").read_text()
    except OSError:
        return UNKNOWN
    found = next((match for line in cgroup.splitlines() if (match := _UNIT.search(line))), None)
    if found is None:
        return UNKNOWN
    manager = ["--user"] if _USER_MANAGER.search(cgroup) else []
    try:
        said = ask([*manager, "show", "--property=TimeoutStopUSec,Type,MainPID", found["unit"]])
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    facts = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return Grace(
        _seconds(facts.get("TimeoutStopUSec", "")),
        f"TimeoutStopSec of {found['unit']}",
        # Another unit's script may have started us; then systemd does not listen to what we ask for.
        extensible=facts.get("Type", "").startswith("notify") and facts.get("MainPID") == str(pid),
    )


def fitted(config: Config, grace: Grace) -> Config:
    """`config` with a budget that ends before the kill, where the operator has not chosen one."""
    if config.origins.get("shutdown.budget_s") != "default":
        return config
    if grace.seconds is None or grace.is_enough_for(config.shutdown.budget_s):
        return config
    budget_s = max(0.5, grace.seconds - MARGIN_S)
    return config._replace(
        shutdown=config.shutdown.with_values(budget_s=budget_s),
        origins={**config.origins, "shutdown.budget_s": grace.told_by},
    )


def container(environ: Mapping[str, str] = os.environ, *, root: Path = Path("/")) -> str:
    """What kind of container this is and what such a one gives by default, "" when it looks like none."""
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return "Kubernetes gives 30 s unless the pod says terminationGracePeriodSeconds"
    if (root / ".dockerenv").exists():
        return "Docker gives 10 s unless the container has a StopTimeout or `docker stop -t` is used"
    if (root / "run/.containerenv").exists():
        return "Podman gives 10 s unless the container has a StopTimeout or `podman stop -t` is used"
    return ""


def _seconds(span: str) -> float | None:
    """A time as systemd writes it (`1min 30s`, `infinity`) in seconds, None for anything else."""
    if span == "infinity":
        return float("inf")
    parts = [_SPAN.fullmatch(part) for part in span.split()]
    if not parts or None in parts:
        return None
    return sum(float(part[1]) * _SECONDS[part[2] or ""] for part in parts if part)
