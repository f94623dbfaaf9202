"""Checks the hooks: whether there are any, and whether agentd would run them."""

from pathlib import Path

from agentd.doctor.finding import Finding, Level, fail, ok, warn
from agentd.hooks.directory import ON_CLAIM, HookDirectoryError, list_hooks
from agentd.hooks.event_hooks import HookEvent
from agentd.programs import untrusted_reason


def check(hooks_dir: Path, *, enabled: bool) -> list[Finding]:
    """One finding for the hooks of a claim (they run if `enabled`), one for each other faulty directory."""
    claims = (
        _check_directory("hooks", hooks_dir / ON_CLAIM)
        if enabled
        else ok("hooks", "claims.enabled is false: the hooks of a claim do not run")
    )
    others = [_check_directory(f"hooks on-{event}", hooks_dir / f"on-{event}.d") for event in HookEvent]
    return [claims, *(finding for finding in others if finding.level is not Level.OK)]


def _check_directory(check: str, directory: Path) -> Finding:
    try:
        found = list_hooks(directory)
    except HookDirectoryError as exc:
        remedy = exc.hint or f"make {directory} and its parents writable for root and agentd's user only"
        return fail(check, exc.message, remedy)
    if not found.exists:
        return ok(check, f"no hooks: {directory} does not exist")
    untrusted = [reason for name in found.names if (reason := untrusted_reason(directory / name))]
    if untrusted:
        remedy = "chown it to root or agentd's user, and chmod 755"
        return fail(check, f"agentd would refuse a hook: {untrusted[0]}", remedy)
    not_executable = [name for name, reason in found.skipped if reason == "not executable"]
    if not_executable:
        remedy = f"chmod 755 {directory / not_executable[0]}, or move it to another directory"
        return warn(check, f"skipped, because not executable: {', '.join(not_executable[:5])}", remedy)
    skipped = ", ".join(f"{name} ({reason})" for name, reason in found.skipped[:5])
    names = ", ".join(found.names) or "no hooks"
    return ok(check, f"{names} in {directory}" + (f"; skipped: {skipped}" if skipped else ""))
