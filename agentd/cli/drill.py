"""`agentd drill`: measure how long each part of a shutdown takes now, without stopping anything."""

import argparse
import asyncio
import json
from typing import Any

from agentd import config, log, stop_timeout
from agentd.cli.local_client import call, daemon_socket
from agentd.cli.stop import ANSWER_MARGIN_S
from agentd.errors import ExitCode, UnavailableError
from agentd.state_dir import holder_pid


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Returns 0 if a shutdown fits into its budget, 1 if it does not or a part fails."""
    settings = config.load(file=args.config, flags=args.flags)
    timeout_s = settings.shutdown.budget_s + ANSWER_MARGIN_S
    try:
        report = call(daemon_socket(settings), "POST", "/v1/drill", timeout_s=timeout_s)
    except UnavailableError:
        report = asyncio.run(_without_daemon(settings))
    timeout = stop_timeout.configured_or(settings, stop_timeout.of_unit(holder_pid(settings.state.dir) or 0))
    report = {
        **report,
        "grace_s": timeout.seconds if timeout.seconds != float("inf") else None,
        "grace_told_by": timeout.source,
    }
    enough = timeout.is_enough_for(report["budget_s"])
    print(json.dumps(report, ensure_ascii=False, indent=2) if args.json else as_text(report, enough=enough))
    return ExitCode.OK if report["fits"] and enough is not False else ExitCode.FAILED


async def _without_daemon(settings: config.Config) -> dict[str, Any]:
    """Run the drill in this process. Raises `StateError` if another agentd uses the state directory."""
    from agentd.clock import Clock  # noqa: PLC0415 - the daemon package, needed only without a daemon
    from agentd.daemon.build import build  # noqa: PLC0415 - as above

    settings.require_coder()
    log.configure(level="error", fmt=settings.log.format)
    async with build(settings, Clock()) as components:
        return await components.drill().run()


def as_text(report: dict[str, Any], *, enough: bool | None) -> str:
    """The report as text. `enough`: the stop timeout is long enough for the budget; None if it is unknown."""
    lines = ["Shutdown drill: nothing was stopped, nothing was stored."]
    for part in report["parts"]:
        allowed = "" if part["allowed_s"] is None else f" of {part['allowed_s']:.1f} s"
        took = "skipped" if part["outcome"] == "skipped" else f"{part['took_s']:.3f} s{allowed}"
        failed = "FAILED: " if part["outcome"] == "failed" else ""
        lines.append(f"  {part['name']:8} {took:16} {failed}{part['detail']}".rstrip())
    budget_s, took_s = report["budget_s"], report["took_s"]
    verdict = (
        f"{budget_s - took_s:.1f} s to spare"
        if report["fits"]
        else "over budget, or a part failed (see FAILED above)"
    )
    lines.append(f"  {'total':8} {f'{took_s:.3f} s of {budget_s:.1f} s':16} {verdict}")
    if enough is None:
        lines.append(
            "  grace    unknown: set shutdown.grace_s to the container's time between SIGTERM and SIGKILL"
        )
    else:
        grace = "unlimited" if report["grace_s"] is None else f"{report['grace_s']:g} s"
        verdict = "enough" if enough else "TOO SHORT for the budget"
        lines.append(f"  grace    {grace} ({report['grace_told_by']}): {verdict}")
    return "\n".join(lines)
