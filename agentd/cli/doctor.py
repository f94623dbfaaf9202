"""`agentd doctor`: what is wrong with this installation, one line each, with its cause and what to do."""

import argparse
import asyncio
import json
import sys

from agentd import config, log
from agentd.agents.agentapi.client import AgentApi
from agentd.cli import add_config_options
from agentd.cli.local_client import daemon_socket
from agentd.clock import Clock
from agentd.coderd.access import coderd_client, proxy_headers, token_source
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import StaticToken, TokenSource
from agentd.config import Config
from agentd.daemon import last_stop
from agentd.daemon.build import SPOOL_DIR
from agentd.doctor.examination import Coder, Subject, examine
from agentd.doctor.finding import Finding, Level, any_failed, fail, ok
from agentd.errors import ConfigError, ExitCode
from agentd.http_client import client_session
from agentd.tls import aiohttp, client_context

# coderd refuses it, which says as much about the way there as an answer would.
_REFUSED = "agentd-doctor-has-none"
_COLOURS = {Level.OK: "32", Level.WARN: "33", Level.FAIL: "31"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """0 all ok or warnings; 1 a failure."""
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


def diagnose(args: argparse.Namespace, *, clock: Clock | None = None) -> list[Finding]:
    """Every finding about the configuration `args` name and what it leads to."""
    try:
        settings = config.load(file=args.config, flags=args.flags)
    except ConfigError as error:
        return [fail("config", error.message, error.hint or "mend it; `agentd config check` says it again")]
    # What rooms would log is said by the findings; anything else would stand between the lines.
    log.configure(level="error", fmt=settings.log.format)
    return asyncio.run(examined(settings, clock or Clock()))


async def examined(settings: Config, clock: Clock) -> list[Finding]:
    """The findings about these settings. Changes nothing, here or at a peer."""
    async with client_session() as session:
        known = [_complete(settings)]
        coder, agent = None, None
        try:
            token = _token(settings, session, known)
            if settings.coder.url:
                coder = _coder(settings, token, session, clock)
        except ConfigError as error:
            known.append(fail("tls", error.message, error.hint))
        agent = AgentApi(settings.agentapi.url, session=session, tls=client_context(settings.agentapi.url))
        before = last_stop.read(settings.state.dir)
        try:
            return await examine(
                Subject(
                    config=settings,
                    spool=settings.state.dir / SPOOL_DIR,
                    socket=daemon_socket(settings),
                    wall=clock.wall,
                    coder=coder,
                    agent=agent,
                    known=tuple(known),
                    last_ended=before.verdict if before else "",
                )
            )
        finally:
            await agent.close()


def _complete(settings: Config) -> Finding:
    try:
        settings.require_coder()
    except ConfigError as error:
        return fail(
            "token" if error.message.startswith("coder.token") else "config", error.message, error.hint
        )
    sources = {origin for origin in settings.origins.values() if origin.startswith("file ")}
    return ok("config", "is complete" + "".join(f", with {source}" for source in sorted(sources)))


def _token(settings: Config, session: aiohttp.ClientSession, known: list[Finding]) -> TokenSource:
    """The token's source; a stand-in that coderd refuses where there is none, so that the way there is looked at."""
    try:
        return token_source(settings, session) or StaticToken(_REFUSED)
    except ConfigError as error:
        known.append(fail("token", error.message, error.hint))
        return StaticToken(_REFUSED)


def _coder(settings: Config, token: TokenSource, session: aiohttp.ClientSession, clock: Clock) -> Coder:
    return Coder(
        token=token,
        client=coderd_client(settings, token, session),
        stream=ReinitStream(
            settings.coder.url,
            context=client_context(settings.coder.url, settings.coder.ca_file),
            clock=clock,
            headers=proxy_headers(settings),
        ),
    )


def _line(finding: Finding, *, colours: bool) -> str:
    word = f"{finding.level.value:4}"
    if colours:
        word = f"\x1b[{_COLOURS[finding.level]}m{word}\x1b[0m"
    remedy = f" → {finding.remedy}" if finding.remedy else ""
    return f"{word}  {finding.check:9} {finding.cause}{remedy}"
