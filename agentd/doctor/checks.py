"""Runs all checks concurrently, each with a time limit, and returns their findings in the order of output."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from agentd.agents.agent import Agent
from agentd.agents.discovery import agent_of
from agentd.clock import Clock
from agentd.coderd.access import extra_headers, token_source
from agentd.coderd.extra_headers import ExtraHeaders
from agentd.coderd.token import StaticToken, TokenSource
from agentd.config import Config
from agentd.doctor import control_plane, daemon, hooks, state
from agentd.doctor.finding import Finding, Level, fail, ok
from agentd.errors import ConfigError
from agentd.http_client import client_session
from agentd.proxy import NAMES as PROXY_VARIABLES
from agentd.tls import aiohttp

CHECK_TIMEOUT_S: Final = 4.8

# A token that coderd rejects. The response still shows whether coderd is reachable.
_REJECTED: Final = "agentd-doctor-has-none"

# The check that a refused key belongs to, "config" for the others.
_CHECK_OF_KEY: Final = {
    "coder.token": "token",
    "coder.token_file": "token",
    "coder.ca_file": "tls",
    "coder.client_cert_file": "tls",
    "local_api.socket": "daemon",
    **{name: "proxy" for names in PROXY_VARIABLES.values() for name in names},
}


async def check_installation(
    config: Config,
    clock: Clock,
    *,
    refusal: ConfigError | None,
    spool: Path,
    socket: Path,
    read_status: Callable[[], daemon.Status | None],
    last_end: str,
) -> list[Finding]:
    """Run every check. A check that does not end within `CHECK_TIMEOUT_S` fails.

    Changes nothing on this machine or at a peer. `refusal` is what the daemon would refuse. `read_status` reads `/v1/status` of the daemon (blocking),
    None without an answer. `last_end` is how the last run ended by the state directory, "" if unknown.
    """
    known = [_check_config(config, refusal)]
    async with client_session() as session:
        headers = extra_headers(config)
        token = _token(config, session, headers, known)
        agent = agent_of(config, session=session, clock=clock)
        checks: dict[str, Awaitable[list[Finding]]] = {
            "state": asyncio.to_thread(state.check, config.state.dir, spool),
            "daemon": asyncio.to_thread(daemon.check, config, socket, read_status, last_end),
        }
        if config.coder.url:
            checks["coderd"] = control_plane.check(config, token, session, headers, clock)
        checks[agent.kind] = _check_agent(agent)
        checks["hooks"] = asyncio.to_thread(
            hooks.check, config.claims.hooks_dir, enabled=config.claims.enabled
        )
        try:
            results = await asyncio.gather(*(_with_time_limit(name, check) for name, check in checks.items()))
        finally:
            await agent.close()
    # If the token cannot be read, a second finding about the token would only repeat that.
    names = {finding.check for finding in known}
    return known + [finding for findings in results for finding in findings if finding.check not in names]


def _check_config(config: Config, refusal: ConfigError | None) -> Finding:
    if refusal is not None:
        key = refusal.message.partition(":")[0]
        return fail(_CHECK_OF_KEY.get(key, "config"), refusal.message, refusal.hint)
    sources = {origin for origin in config.origins.values() if origin.startswith("file ")}
    return ok("config", "is complete" + "".join(f", with {source}" for source in sorted(sources)))


def _token(
    config: Config, session: aiohttp.ClientSession, headers: ExtraHeaders, known: list[Finding]
) -> TokenSource:
    """The configured token source, or an invalid token, so that coderd is checked anyway."""
    try:
        return token_source(config, session, headers) or StaticToken(_REJECTED)
    except ConfigError as exc:
        if known[0].check not in ("token", "proxy", "tls"):
            known.append(fail("token", exc.message, exc.hint))
        return StaticToken(_REJECTED)


async def _check_agent(agent: Agent) -> list[Finding]:
    return [
        Finding(kind, Level(diagnosis.severity), diagnosis.cause, diagnosis.remedy)
        for kind, diagnosis in (await agent.diagnoses()).items()
    ]


async def _with_time_limit(name: str, check: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await check
    except TimeoutError:
        remedy = "a resolver, a disk or a peer does not answer: check the network and the mounts"
        return [fail(name, f"the check timed out after {CHECK_TIMEOUT_S:g} s", remedy)]
