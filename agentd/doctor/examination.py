"""All checks at once, each bounded in time, put into one list in the order a person reads it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd import stop_timeout
from agentd.agents.agent import Agent
from agentd.coderd.client import Coderd
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import TokenSource
from agentd.config import Config
from agentd.doctor import agent, control_plane, daemon, hooks, state, stop_time
from agentd.doctor.finding import Finding, fail

CHECK_TIMEOUT_S = 4.8


@dataclass(frozen=True, slots=True)
class Coder:
    """coderd as this configuration reaches it."""

    token: TokenSource
    client: Coderd
    stream: ReinitStream


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined. `coder` or `agent` is None where it could not be built, which `known` then says.

    `known` is what was found while building, `last_ended` how the last run ended as far as the state directory tells.
    """

    config: Config
    spool: Path
    socket: Path
    wall: Callable[[], float]
    coder: Coder | None
    agent: Agent | None
    known: tuple[Finding, ...] = ()
    last_ended: str = ""


async def examine(subject: Subject) -> list[Finding]:
    """Every finding, none later than `CHECK_TIMEOUT_S`; what does not answer by then is one itself."""
    config = subject.config
    checks: dict[str, Awaitable[list[Finding]]] = {
        "state": asyncio.to_thread(state.examine, config.state.dir, subject.spool),
        "daemon": _daemon(subject),
    }
    if subject.coder is not None:
        checks["coderd"] = _control_plane(subject, subject.coder)
    if subject.agent is not None:
        checks[subject.agent.kind] = agent.examine(subject.agent)
    checks["hooks"] = asyncio.to_thread(hooks.examine, config.claims.hooks_dir, enabled=config.claims.enabled)
    found = await asyncio.gather(*(_bounded(name, check) for name, check in checks.items()))
    return [*subject.known, *(finding for findings in found for finding in findings)]


async def _bounded(name: str, check: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await check
    except TimeoutError:
        remedy = "a resolver, a disk or a peer hangs; try it by hand, then look at the network and the mounts"
        return [fail(name, f"was not known within {CHECK_TIMEOUT_S:g} s", remedy)]


async def _daemon(subject: Subject) -> list[Finding]:
    config = subject.config
    status = await daemon.ask(subject.socket)
    # The daemon knows how the run before it ended; without one, the directory tells of the last run there was.
    last_ended = subject.last_ended if status is None else _last_ended(status)

    def look() -> list[Finding]:
        given = stop_timeout.configured_or(config, stop_timeout.of_unit(daemon.pid(config.state.dir, status)))
        fitted = stop_timeout.fit_budget(config, given)
        return [
            *daemon.examine(config.state.dir, subject.socket, config.local_api.listen, status),
            *stop_time.examine(fitted.shutdown.budget_s, given, stop_timeout.container_default(), last_ended),
        ]

    return await asyncio.to_thread(look)


def _last_ended(status: Mapping[str, Any]) -> str:
    last_stop = status.get("last_stop")
    return str(last_stop.get("ended", "")) if isinstance(last_stop, dict) else ""


async def _control_plane(subject: Subject, coder: Coder) -> list[Finding]:
    config = subject.config
    wanted = control_plane.Wanted(
        claims=config.claims.enabled,
        snapshots="coder" in config.snapshots.destinations,
        task_id=config.snapshots.task_id,
    )
    found = await control_plane.examine(coder.client, coder.stream, coder.token, wanted, wall=subject.wall)
    told = {finding.check for finding in subject.known}
    # A token that cannot even be read needs no second line about what coderd makes of its absence.
    return [finding for finding in found if finding.check != "token" or "token" not in told]
