"""Runs all checks concurrently, each with a time limit, and returns their findings in the order of output."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentd import stop_timeout
from agentd.agents.agent import Agent
from agentd.coderd.client import Coderd
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import TokenSource
from agentd.config import Config
from agentd.doctor import control_plane, daemon, hooks, state, stop_time
from agentd.doctor.finding import Finding, Level, fail

CHECK_TIMEOUT_S: Final = 4.8


@dataclass(frozen=True, slots=True)
class CoderdAccess:
    """The clients of coderd with this configuration."""

    token: TokenSource
    client: Coderd
    stream: ReinitStream


@dataclass(frozen=True, slots=True)
class Installation:
    """What to check.

    `coderd` or `agent` is None if it could not be built; `known`, the findings so far, then states why.
    `read_status` reads `/v1/status` of the daemon (blocking), None without an answer. `last_end` is how the
    last run ended according to the state directory, "" if that is unknown.
    """

    config: Config
    spool: Path
    socket: Path
    wall: Callable[[], float]
    coderd: CoderdAccess | None
    agent: Agent | None
    read_status: Callable[[], object]
    known: tuple[Finding, ...] = ()
    last_end: str = ""


async def check_installation(installation: Installation) -> list[Finding]:
    """Run every check. A check that does not end within `CHECK_TIMEOUT_S` fails."""
    config = installation.config
    checks: dict[str, Awaitable[list[Finding]]] = {
        "state": asyncio.to_thread(state.check, config.state.dir, installation.spool),
        "daemon": _check_daemon(installation),
    }
    if installation.coderd is not None:
        checks["coderd"] = _check_control_plane(installation, installation.coderd)
    if installation.agent is not None:
        checks[installation.agent.kind] = _check_agent(installation.agent)
    checks["hooks"] = asyncio.to_thread(hooks.check, config.claims.hooks_dir, enabled=config.claims.enabled)
    results = await asyncio.gather(*(_with_time_limit(name, check) for name, check in checks.items()))
    return [*installation.known, *(finding for findings in results for finding in findings)]


async def _with_time_limit(name: str, check: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await check
    except TimeoutError:
        remedy = "a resolver, a disk or a peer does not answer: check the network and the mounts"
        return [fail(name, f"the check timed out after {CHECK_TIMEOUT_S:g} s", remedy)]


async def _check_agent(agent: Agent) -> list[Finding]:
    diagnosis = await agent.diagnose()
    return [Finding(agent.kind, Level(diagnosis.severity), diagnosis.cause, diagnosis.remedy)]


async def _check_daemon(installation: Installation) -> list[Finding]:
    return await asyncio.to_thread(_check_daemon_and_stop_time, installation)


def _check_daemon_and_stop_time(installation: Installation) -> list[Finding]:
    config = installation.config
    status = daemon.valid_status(installation.read_status())
    # A running daemon has replaced the record of the previous run; its status has a copy.
    last_end = installation.last_end if status is None else _last_end(status)
    pid = daemon.pid(config.state.dir, status)
    timeout = stop_timeout.configured_or(config, stop_timeout.of_unit(pid))
    budget_s = stop_timeout.fit_budget(config, timeout).shutdown.budget_s
    return [
        *daemon.check(config.state.dir, installation.socket, config.local_api.listen, status),
        *stop_time.check(budget_s, timeout, stop_timeout.container_default(), last_end),
    ]


def _last_end(status: Mapping[str, Any]) -> str:
    last_stop = status.get("last_stop")
    return str(last_stop.get("ended", "")) if isinstance(last_stop, dict) else ""


async def _check_control_plane(installation: Installation, coderd: CoderdAccess) -> list[Finding]:
    config = installation.config
    use = control_plane.CoderdUse(
        claims=config.claims.enabled,
        snapshots="coder" in config.snapshots.destinations,
        task_id=config.snapshots.task_id,
    )
    findings = await control_plane.check(
        coderd.client, coderd.stream, coderd.token, use, wall=installation.wall
    )
    # If the token cannot be read, a second finding about the token would only repeat that.
    known = {finding.check for finding in installation.known}
    return [finding for finding in findings if finding.check != "token" or "token" not in known]
