"""coderd's behaviour by era, and the differences between the versions of an era.

An era is a range of releases: E1 is v2.22 to v2.31, E2 is v2.32 to v2.34.3, E3 is v2.33.10, v2.34.4 and
later, E4 is the main branch of August 2026, E5 is coderd after the removal of Tasks.
"""

import enum
import re
from dataclasses import dataclass, replace
from typing import Final

from agentd.simulator.faults import SimulatorError


class Wait(enum.Enum):
    """The effect of `?wait=true` on the reinit endpoint."""

    IGNORED = "ignored"
    DURABLE = "durable check"
    GATED = "durable check of the claim build only"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What differs between eras and versions."""

    version: str
    wait: Wait
    owner_in_event: bool
    log_snapshot: bool
    snapshot_in_logs: bool
    stop_auth: bool
    """The start build's token stays valid while the job of the stop build is pending or running."""
    oversize_status: int
    busy_send_status: int
    app_status_checks_slug_first: bool
    """So does the handler before v2.31.1, which also refuses a state in upper case."""
    bumps_deadline: bool
    """Reports of work postpone the automatic stop of the workspace."""
    tasks: bool


_ERAS: Final = {
    "E1": Behaviour("v2.31.14", Wait.IGNORED, False, True, True, True, 400, 502, False, True, True),
    "E2": Behaviour("v2.34.3", Wait.DURABLE, True, True, True, True, 400, 409, False, True, True),
    "E3": Behaviour("v2.36.0", Wait.GATED, True, True, True, True, 400, 409, False, True, True),
    "E4": Behaviour(
        "v2.37.0-devel+c9a1e2bce", Wait.GATED, True, True, True, True, 413, 409, False, True, True
    ),
    "E5": Behaviour("v2.37.0", Wait.GATED, True, False, False, True, 413, 409, False, True, False),
}
ERAS: Final = tuple(_ERAS)


def behaviour(era: str, *, build_version: str | None, enable_tasks: bool) -> Behaviour:
    """The behaviour of a server of `era`.

    `build_version` (like "v2.29.1") is the version that the server reports; inside E1 it also changes the
    behaviour. Raises `SimulatorError` for an unknown era.
    """
    if era not in _ERAS:
        raise SimulatorError(f"no such era: {era!r}", hint=f"known: {', '.join(ERAS)}")
    row = _ERAS[era]
    if build_version is not None:
        row = replace(row, version=build_version)
        number = _number(build_version)
        if era == "E1" and number is not None:
            row = replace(
                row,
                log_snapshot=number >= (2, 30, 0),
                stop_auth=number >= (2, 30, 0),
                snapshot_in_logs=number >= (2, 31, 1),
                app_status_checks_slug_first=number < (2, 31, 1),
                bumps_deadline=number >= (2, 30, 0),
            )
    if era == "E4" and not enable_tasks:  # CODER_ENABLE_AI_TASKS
        row = replace(row, log_snapshot=False, tasks=False)
    return row


def _number(version: str) -> tuple[int, ...] | None:
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    return tuple(int(part) for part in found.groups()) if found else None
