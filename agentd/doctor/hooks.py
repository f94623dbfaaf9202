"""The hooks: are they found, and would they be trusted."""

from pathlib import Path

from agentd.doctor.finding import Finding, Level, fail, ok, warn
from agentd.hooks.directory import ON_CLAIM, HookDirectoryError, list_hooks, untrusted_reason
from agentd.hooks.event_hooks import HookEvent


def examine(hooks_dir: Path, *, enabled: bool) -> list[Finding]:
    """One finding for the hooks of a claim, and one for each other folder in which something is wrong.

    `enabled`: claims are on. Blocks on the disk.
    """
    claims = (
        _folder("hooks", hooks_dir / ON_CLAIM)
        if enabled
        else ok("hooks", "claims.enabled is false: no claim runs one")
    )
    others = [_folder(f"hooks on-{one}", hooks_dir / f"on-{one}.d") for one in HookEvent]
    return [claims, *(finding for finding in others if finding.level is not Level.OK)]


def _folder(check: str, folder: Path) -> Finding:
    try:
        found = list_hooks(folder)
    except HookDirectoryError as error:
        remedy = error.hint or f"only root or agentd's user may write {folder} and the way to it"
        return fail(check, error.message, remedy)
    if not found.exists:
        return ok(check, f"none: {folder} is not there")
    distrusted = [why for name in found.names if (why := untrusted_reason(folder / name))]
    if distrusted:
        remedy = "chown it to root or agentd's user, chmod 755"
        return fail(check, f"a hook would be refused: {distrusted[0]}", remedy)
    idle = [name for name, why in found.skipped if why == "not executable"]
    if idle:
        remedy = f"chmod 755 {folder / idle[0]}, or move it away"
        return warn(check, f"not executable, so passed over: {', '.join(idle[:5])}", remedy)
    other = ", ".join(f"{name} ({why})" for name, why in found.skipped[:5])
    names = ", ".join(found.names) or "none"
    return ok(check, f"{names} in {folder}" + (f"; passed over: {other}" if other else ""))
