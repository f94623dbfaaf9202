"""`agentd doctor`: check the installation; print one line for each check, with the cause and what to do."""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Final

from agentd import config, log
from agentd.agents.discovery import agent_of
from agentd.cli import add_config_options
from agentd.cli.local_client import call, daemon_socket
from agentd.clock import Clock
from agentd.coderd.access import coderd_client, proxy_headers, token_source
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import StaticToken, TokenSource
from agentd.config import Config
from agentd.daemon import last_stop
from agentd.daemon.build import SPOOL_DIR
from agentd.doctor.checks import CoderdAccess, Installation, check_installation
from agentd.doctor.finding import Finding, Level, any_failed, fail, ok
from agentd.errors import AgentdError, ConfigError, ExitCode
from agentd.http_client import client_session
from agentd.tls import aiohttp, client_context

STATUS_TIMEOUT_S: Final = 3.0

# A token that coderd rejects. The response still shows whether coderd is reachable.
_REJECTED: Final = "agentd-doctor-has-none"
_COLOURS: Final = {Level.OK: "32", Level.WARN: "33", Level.FAIL: "31"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 if every check is ok or a warning, 1 if one fails."""
    findings = diagnose(args)
    if args.json:
        print(
            json.dumps(
                {"ok": not any_failed(findings), "checks": [one.as_json() for one in findings]}, indent=2
            )
        )
    else:
        for finding in findings:
            print(_line(finding, colours=sys.stdout.isatty()))
    return ExitCode.FAILED if any_failed(findings) else ExitCode.OK


def diagnose(args: argparse.Namespace) -> list[Finding]:
    """Run every check with the configuration that `args` select."""
    try:
        settings = config.load(file=args.config, flags=args.flags)
    except ConfigError as exc:
        return [
            fail("config", exc.message, exc.hint or "correct it; `agentd config check` shows the same error")
        ]
    # Log errors only: the findings report the rest, and log lines would mix with them.
    log.configure(level="error", fmt=settings.log.format)
    return asyncio.run(run_checks(settings, Clock()))


async def run_checks(settings: Config, clock: Clock) -> list[Finding]:
    """Run every check with `settings`. Changes nothing on this machine or at a peer."""
    async with client_session() as session:
        known = [_check_complete(settings)]
        coderd = None
        try:
            token = _token(settings, session, known)
            if settings.coder.url:
                coderd = _coderd(settings, token, session, clock)
        except ConfigError as exc:
            known.append(fail("tls", exc.message, exc.hint))
        agent = agent_of(settings, session=session, clock=clock)
        previous = last_stop.read(settings.state.dir)
        socket = daemon_socket(settings)
        try:
            return await check_installation(
                Installation(
                    config=settings,
                    spool=settings.state.dir / SPOOL_DIR,
                    socket=socket,
                    wall=clock.wall,
                    coderd=coderd,
                    agent=agent,
                    read_status=lambda: _read_status(socket),
                    known=tuple(known),
                    last_end=previous.verdict if previous else "",
                )
            )
        finally:
            await agent.close()


def _check_complete(settings: Config) -> Finding:
    try:
        settings.require_coder()
    except ConfigError as exc:
        return fail("token" if exc.message.startswith("coder.token") else "config", exc.message, exc.hint)
    sources = {origin for origin in settings.origins.values() if origin.startswith("file ")}
    return ok("config", "is complete" + "".join(f", with {source}" for source in sorted(sources)))


def _token(settings: Config, session: aiohttp.ClientSession, known: list[Finding]) -> TokenSource:
    """The configured token source, or an invalid token, so that coderd is checked anyway."""
    try:
        return token_source(settings, session) or StaticToken(_REJECTED)
    except ConfigError as exc:
        known.append(fail("token", exc.message, exc.hint))
        return StaticToken(_REJECTED)


def _coderd(
    settings: Config, token: TokenSource, session: aiohttp.ClientSession, clock: Clock
) -> CoderdAccess:
    return CoderdAccess(
        token=token,
        client=coderd_client(settings, token, session, clock),
        stream=ReinitStream(
            settings.coder.url,
            context=client_context(settings.coder.url, settings.coder.ca_file),
            clock=clock,
            headers=proxy_headers(settings),
        ),
    )


def _read_status(socket: Path) -> object:
    try:
        return call(socket, "GET", "/v1/status", timeout_s=STATUS_TIMEOUT_S)
    except AgentdError:
        return None


def _line(finding: Finding, *, colours: bool) -> str:
    level = f"{finding.level.value:4}"
    if colours:
        level = f"\x1b[{_COLOURS[finding.level]}m{level}\x1b[0m"
    remedy = f" → {finding.remedy}" if finding.remedy else ""
    return f"{level}  {finding.check:9} {finding.cause}{remedy}"
