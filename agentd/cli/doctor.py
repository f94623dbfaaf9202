"""`agentd doctor`: check the installation; print one line for each check, with the cause and what to do."""

import argparse
import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Final

from agentd import config, log
from agentd.cli.local_client import call, daemon_socket
from agentd.clock import Clock
from agentd.config import Config
from agentd.daemon import last_stop
from agentd.daemon.build import SPOOL_DIR, check
from agentd.doctor.checks import check_installation
from agentd.doctor.daemon import Status
from agentd.doctor.finding import Finding, Level, fail
from agentd.errors import AgentdError, ConfigError, ExitCode

STATUS_TIMEOUT_S: Final = 3.0

_COLOURS: Final = {Level.OK: "32", Level.WARN: "33", Level.FAIL: "31"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Returns 0 if every check is ok or a warning, 1 if one fails."""
    findings = diagnose(args)
    failed = any(finding.level is Level.FAIL for finding in findings)
    if args.json:
        checks = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"ok": not failed, "checks": checks}, indent=2))
    else:
        for finding in findings:
            print(_line(finding, colours=sys.stdout.isatty()))
    return ExitCode.FAILED if failed else ExitCode.OK


def diagnose(args: argparse.Namespace) -> list[Finding]:
    """Run every check with the configuration that `args` select."""
    try:
        settings = config.load(file=args.config, flags=args.flags)
    except ConfigError as exc:
        hint = exc.hint or "correct it; `agentd config check` shows the same error"
        return [fail("config", exc.message, hint)]
    # Log errors only: the findings report the rest, and log lines would mix with them.
    log.configure(level="error", fmt=settings.log.format)
    return asyncio.run(run_checks(settings, Clock()))


async def run_checks(settings: Config, clock: Clock) -> list[Finding]:
    """Run every check with `settings`. Changes nothing on this machine or at a peer."""
    previous = last_stop.read(settings.state.dir)
    socket = daemon_socket(settings)
    refusal = None
    try:
        await check(settings, clock)
    except ConfigError as exc:
        refusal = exc
    return await check_installation(
        settings,
        clock,
        refusal=refusal,
        spool=settings.state.dir / SPOOL_DIR,
        socket=socket,
        read_status=lambda: _read_status(socket),
        last_end=previous.verdict if previous else "",
    )


def _read_status(socket: Path) -> Status | None:
    try:
        response = call(socket, "GET", "/v1/status", timeout_s=STATUS_TIMEOUT_S)
    except AgentdError:
        return None
    return response if isinstance(response, dict) and isinstance(response.get("pid"), int) else None


def _line(finding: Finding, *, colours: bool) -> str:
    level = f"{finding.level.value:4}"
    if colours:
        level = f"\x1b[{_COLOURS[finding.level]}m{level}\x1b[0m"
    remedy = f" → {finding.remedy}" if finding.remedy else ""
    return f"{level}  {finding.check:9} {finding.cause}{remedy}"
