"""Finds the agents of this workspace and builds them. The only module that knows every kind of agent."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from agentd.agents.agent import Agent
from agentd.agents.agentapi.agent import AgentApiAgent
from agentd.agents.agentapi.client import AgentApiClient
from agentd.agents.hook_states import HookStates
from agentd.clock import Clock
from agentd.config import Config
from agentd.conversation.redaction import Redactor
from agentd.metrics import Metric, Registry
from agentd.tls import aiohttp, client_context
from agentd.worker_thread import WorkerThread

AUTO: Final = "auto"
NONE: Final = "none"


class Surroundings(NamedTuple):
    """What a kind that reads files gets. `folder` is the agent's own; files of another user than `owner` are not read.

    `directory`: the current session is one below it, if there is one. `keep`: messages to keep. Files are read in the thread `disk`.
    `redact`, if any, is applied to every message before `Agent.messages` or a digest of it leaves the kind, and to the
    evidence of an observation. `skipped` counts the lines of session files that are left out (`kind`, `reason`).
    """

    folder: Path
    owner: int
    directory: Path | None
    keep: int
    clock: Clock
    disk: WorkerThread
    redact: Redactor | None = None
    skipped: Metric | None = None


class FileKind(NamedTuple):
    """A kind that is observed by its files. It is there as soon as its folder exists.

    The folder is the one that the environment variable `variable` names, joined with `below`; else `default`, relative
    to `agent.home`. `build` imports the kind: most workspaces have one agent.
    """

    variable: str
    below: str
    default: str
    build: Callable[[Surroundings], Agent]

    def folder(self, home: Path, environ: Mapping[str, str]) -> Path:
        named = environ.get(self.variable, "")
        return Path(named) / self.below if named.startswith("/") else home / self.default


def _claude_code(given: Surroundings) -> Agent:
    from agentd.agents.claude_code.agent import ClaudeCodeAgent  # noqa: PLC0415 - most workspaces have one agent

    return ClaudeCodeAgent(
        given.folder,
        owner=given.owner,
        directory=given.directory,
        keep=given.keep,
        clock=given.clock,
        disk=given.disk,
        redact=given.redact,
        skipped=given.skipped,
    )


def _codex(given: Surroundings) -> Agent:
    from agentd.agents.codex.agent import CodexAgent  # noqa: PLC0415 - most workspaces have one agent

    return CodexAgent(
        given.folder,
        owner=given.owner,
        keep=given.keep,
        clock=given.clock,
        disk=given.disk,
        directory=given.directory,
        redact=given.redact,
        skipped=given.skipped,
    )


FILE_KINDS: Final[dict[str, FileKind]] = {
    "claude-code": FileKind("CLAUDE_CONFIG_DIR", "", ".claude", _claude_code),
    "codex": FileKind("CODEX_HOME", "", ".codex", _codex),
}
"""By the name of the kind, in the order in which they are looked for."""


def hook_states(config: Config, clock: Clock) -> HookStates | None:
    """What holds the states that agents' own hooks tell, None if `agent.sources` allows no agent that has hooks."""
    sources = config.agent.sources
    return HookStates(clock) if AUTO in sources or any(kind in sources for kind in FILE_KINDS) else None


def agent_of(
    config: Config,
    *,
    session: aiohttp.ClientSession,
    clock: Clock,
    redact: Redactor | None = None,
    metrics: Registry | None = None,
    hooks: HookStates | None = None,
) -> Agent:
    """The agents that `agent.sources` names, as one. Raises `ConfigError` for an unreadable CA file.

    `hooks` is what `hook_states` returned. `redact` is applied to every message of an agent, before any reader gets it.
    """
    skipped = None
    if metrics is not None:
        skipped = metrics.counter(
            "agentd_agent_records_skipped_total",
            "Records of session files that are left out.",
            "kind",
            "reason",
        )
    sources = config.agent.sources
    has_agentapi = AUTO in sources or "agentapi" in sources
    kinds = [kind for kind in FILE_KINDS if AUTO in sources or kind in sources]
    if has_agentapi and not kinds:
        return _agentapi(config, session=session, clock=clock, redact=redact)
    from agentd.agents.combined import Candidate, CombinedAgent  # noqa: PLC0415 - not for AgentAPI alone

    disk = WorkerThread("agent files")
    candidates = []
    for kind in kinds:
        folder = FILE_KINDS[kind].folder(config.agent.home, os.environ)
        surroundings = Surroundings(
            folder=folder,
            owner=os.getuid(),
            directory=config.agent.directory,
            keep=config.snapshots.max_messages,
            clock=clock,
            disk=disk,
            redact=redact,
            skipped=skipped,
        )
        candidates.append(Candidate(kind, folder, partial(FILE_KINDS[kind].build, surroundings)))
    members = [_agentapi(config, session=session, clock=clock, redact=redact)] if has_agentapi else []
    return CombinedAgent(
        members,
        candidates,
        clock=clock,
        disk=disk,
        directory=config.agent.directory,
        hooks=hooks,
        any_hook=AUTO in sources,
    )


def _agentapi(
    config: Config, *, session: aiohttp.ClientSession, clock: Clock, redact: Redactor | None
) -> Agent:
    client = AgentApiClient(config.agentapi.url, session=session, tls=client_context(config.agentapi.url))
    return AgentApiAgent(
        client,
        keep=config.snapshots.max_messages,
        clock=clock,
        state_file=config.agentapi.state_file,
        pid_file=config.agentapi.pid_file,
        redact=redact,
    )
