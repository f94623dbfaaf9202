"""Is there time for a shutdown before the kill, and was there at the last one."""

from agentd.doctor.finding import Finding, fail, ok, warn
from agentd.stop_timeout import MARGIN_S, StopTimeout

_REHEARSE = "`agentd drill` measures a stop"


def examine(budget_s: float, given: StopTimeout, container: str, last_ended: str) -> list[Finding]:
    """One finding.

    `container` says what this kind of container gives by default, "" when it looks like none; `last_ended` is how the
    run before ended (`in_order`, `cut_off`, `killed`), "" when nobody knows.
    """
    if given.is_enough_for(budget_s) is False:
        return [
            fail(
                "grace",
                f"a stop may take {budget_s:g} s, and the kill comes after {given.seconds:g} s ({given.source})",
                f"lower shutdown.budget_s (AGENTD_SHUTDOWN_BUDGET_S) to {max(0.5, (given.seconds or 0) - MARGIN_S):g}"
                " or raise that time",
            )
        ]
    if last_ended == "cut_off":
        return [
            warn(
                "grace",
                "the last stop was cut off: agentd was killed before it had finished",
                f"raise the grace of whoever stops it or lower shutdown.budget_s ({budget_s:g}); {_REHEARSE}",
            )
        ]
    if last_ended == "killed":
        return [
            warn(
                "grace",
                "the last run was killed without being asked to stop",
                "let TERM reach agentd, or run `agentd stop` first (Coder's run_on_stop); else look for a crash",
            )
        ]
    if given.is_enough_for(budget_s) is None:
        return [
            warn(
                "grace",
                f"not known how long a stop may take before the kill; agentd takes up to {budget_s:g} s"
                + (f"; {container}" if container else ""),
                f"set shutdown.grace_s (AGENTD_SHUTDOWN_GRACE_S) to what the container gives; {_REHEARSE}",
            )
        ]
    told = given.source if given.seconds is None else f"{given.source}: {given.seconds:g} s"
    return [ok("grace", f"a stop of {budget_s:g} s fits ({told})")]
