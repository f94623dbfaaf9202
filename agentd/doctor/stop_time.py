"""Checks whether a shutdown ends before SIGKILL, and whether the last one did."""

from typing import Final

from agentd.doctor.finding import Finding, fail, ok, warn
from agentd.stop_timeout import MARGIN_S, StopTimeout

_REHEARSE: Final = "`agentd drill` measures a stop"


def check(budget_s: float, timeout: StopTimeout, container: str, last_end: str) -> Finding:
    """The finding about the stop timeout.

    `container` is a sentence about the default timeout of the container runtime, "" outside a container.
    `last_end` is how the previous run ended (`in_order`, `cut_off`, `killed`), "" if that is unknown.
    """
    is_enough = timeout.is_enough_for(budget_s)
    if is_enough is False:
        fitting_s = max(0.5, (timeout.seconds or 0) - MARGIN_S)
        return fail(
            "grace",
            f"a stop may take {budget_s:g} s, but SIGKILL follows SIGTERM after {timeout.seconds:g} s"
            f" ({timeout.source})",
            f"lower shutdown.budget_s (AGENTD_SHUTDOWN_BUDGET_S) to {fitting_s:g}, or increase that time",
        )
    if last_end == "cut_off":
        return warn(
            "grace",
            "the last stop was cut off: agentd was killed before it had finished",
            "increase TimeoutStopSec, `docker stop -t` or terminationGracePeriodSeconds,"
            f" or lower shutdown.budget_s ({budget_s:g}); {_REHEARSE}",
        )
    if last_end == "killed":
        return warn(
            "grace",
            "the last run was killed without SIGTERM before it",
            "make sure that SIGTERM is sent to agentd, or run `agentd stop` first (Coder's run_on_stop);"
            " otherwise look for a crash",
        )
    if is_enough is None:
        return warn(
            "grace",
            f"the time between SIGTERM and SIGKILL is unknown; agentd may need up to {budget_s:g} s"
            + (f"; {container}" if container else ""),
            f"set shutdown.grace_s (AGENTD_SHUTDOWN_GRACE_S) to the time of the container; {_REHEARSE}",
        )
    source = timeout.source if timeout.seconds is None else f"{timeout.source}: {timeout.seconds:g} s"
    return ok("grace", f"a stop of {budget_s:g} s ends before SIGKILL ({source})")
