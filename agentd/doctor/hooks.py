"""The hooks of a claim: are they found, and would they be trusted."""

from pathlib import Path

from agentd.doctor.finding import Finding, fail, ok, warn
from agentd.hooks.directory import ON_CLAIM, HookDirUnusable, listing, why_distrusted


def examine(hooks_dir: Path, *, enabled: bool) -> list[Finding]:
    """One finding, the worst first. Blocks on the disk."""
    if not enabled:
        return [ok("hooks", "claims.enabled is false: no hook runs")]
    folder = hooks_dir / ON_CLAIM
    try:
        found = listing(folder)
    except HookDirUnusable as error:
        return [
            fail(
                "hooks",
                error.message,
                error.hint or f"only root or agentd's user may write {folder} and the way to it",
            )
        ]
    if not found.exists:
        return [ok("hooks", f"none: {folder} is not there")]
    distrusted = [why for name in found.names if (why := why_distrusted(folder / name))]
    if distrusted:
        return [
            fail(
                "hooks",
                f"a hook would be refused: {distrusted[0]}",
                "chown it to root or agentd's user, chmod 755",
            )
        ]
    idle = [name for name, why in found.passed_over if why == "not executable"]
    if idle:
        names = ", ".join(idle[:5])
        return [
            warn(
                "hooks",
                f"not executable, so passed over: {names}",
                f"chmod 755 {folder / idle[0]}, or move it away",
            )
        ]
    other = ", ".join(f"{name} ({why})" for name, why in found.passed_over[:5])
    return [
        ok(
            "hooks",
            f"{', '.join(found.names) or 'none'} in {folder}" + (f"; passed over: {other}" if other else ""),
        )
    ]
