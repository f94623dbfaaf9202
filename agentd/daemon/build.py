"""Builds every component once and hands each the parts it needs. `wiring.py` then connects them.

`build` is for the daemon and for commands that do its work without it; both hold the state directory's lock.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from agentd import __version__, log
from agentd.agents.agent import Agent
from agentd.agents.discovery import agent_of, hook_states
from agentd.agents.hook_socket import HookSocket
from agentd.agents.hook_states import HookStates
from agentd.claims.events import ClaimEvent
from agentd.claims.hook_runner import HookRunner
from agentd.claims.ledger import Ledger
from agentd.claims.listener import FIND_MISSED_TIMEOUT_S, ClaimListener
from agentd.claims.missed_claim import is_sent_once, missed_claim
from agentd.clock import Clock
from agentd.coderd.access import claim_stream, coderd_client, extra_headers, token_source
from agentd.coderd.client import Coderd
from agentd.coderd.debug_manifest import read_manifest
from agentd.coderd.extra_headers import ExtraHeaders
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import TokenSource
from agentd.config import Config
from agentd.conversation.redaction import Redactor
from agentd.daemon import wiring
from agentd.daemon.last_stop import LastStop
from agentd.daemon.shutdown import FinalSnapshot, Shutdown
from agentd.daemon.task_status import TaskView
from agentd.errors import ConfigError
from agentd.hooks.event_hooks import EventHooks
from agentd.hooks.run import HookPolicy
from agentd.http_client import client_session
from agentd.local_api.unix_socket import require_short
from agentd.metrics import Registry
from agentd.snapshots.delivery import Delivery
from agentd.snapshots.destinations.coder import CoderDestination
from agentd.snapshots.destinations.destination import Destination, RetryableError
from agentd.snapshots.recorder import Recorder
from agentd.snapshots.spool import Spool
from agentd.stability.task_reports import TaskReports
from agentd.stability.tracker import Tracker
from agentd.stability.watcher import Watcher
from agentd.state_dir import StateDir
from agentd.tls import aiohttp

if TYPE_CHECKING:
    from agentd.daemon.drill import Drill
    from agentd.stability.app_status import AppStatusReporter

SPOOL_DIR: Final = "spool"

# Time between SIGTERM and SIGKILL of a hook that runs when agentd stops.
HOOK_STOP_SHARE: Final = 0.25
CLAIM_HOOK_STOP_MAX_S: Final = 5.0
EVENT_HOOK_STOP_MAX_S: Final = 1.0


class Peers(NamedTuple):
    """Everything that only the configuration can keep from being built. `connect` builds it."""

    headers: ExtraHeaders
    token: TokenSource | None
    agent: Agent
    stream: ReinitStream | None
    """None if claims are disabled, or if there is no token."""
    status_client: Coderd | None
    """None unless `status.app_slug` is set."""
    destinations: list[Destination]
    redact: Redactor | None


class Components:
    """The components of one agentd. Only the commands that start it and this package hold it; a component gets its parts.

    Raises `ConfigError` if a file that the configuration names is invalid.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        state: StateDir,
        ledger: Ledger,
        spool: Spool,
        session: aiohttp.ClientSession,
    ) -> None:
        self.config = config
        self.clock = clock
        self.state = state
        self.ledger = ledger
        self.spool = spool
        self.session = session
        self.metrics = Registry()
        info = self.metrics.gauge("agentd_info", "Always 1; the version is a label.", "version")
        info.set(1, version=__version__)
        agent_hooks = hook_states(config, clock)
        peers = connect(
            config,
            session,
            clock,
            workspace_id=lambda: ledger.workspace_id or "",
            metrics=self.metrics,
            hooks=agent_hooks,
        )
        self.hook_socket = (
            HookSocket(config.local_api.socket, take=agent_hooks.take, clock=clock, metrics=self.metrics)
            if agent_hooks is not None
            else None
        )
        """None if `agent.sources` allows no agent that has hooks."""
        self.headers = peers.headers
        self.token = peers.token
        self.agent = peers.agent
        self.tracker = Tracker(config.stability.settle_s)
        self.watcher = Watcher(
            agent=self.agent,
            tracker=self.tracker,
            clock=clock,
            poll_interval_s=config.agent.poll_interval_s,
            checkpoint_s=config.snapshots.checkpoint_s,
            keep_messages=config.snapshots.max_messages,
        )
        self.recorder = Recorder(
            spool=spool,
            task_id=config.snapshots.task_id,
            max_messages=config.snapshots.max_messages,
            max_bytes=config.snapshots.max_bytes,
            checkpoint_s=config.snapshots.checkpoint_s,
            clock=clock,
            metrics=self.metrics,
            redact=peers.redact,
        )
        self.delivery = Delivery(
            spool=spool,
            destinations=peers.destinations,
            upload=config.snapshots.upload,
            clock=clock,
            metrics=self.metrics,
        )
        self.task_reports = TaskReports(
            folder=state.path,
            clock=clock,
            disk=spool.disk,
            # Also without `snapshots.redact`: an app status is shown to others than the snapshot.
            redact=peers.redact or Redactor(values=log.registered_secrets),
        )
        self.listener = self._listener(peers.stream)
        """None if claims are disabled, or if there is no token."""
        self.task_view = TaskView(
            tracker=self.tracker, task_reports=self.task_reports, listener=self.listener
        )
        self.reporter = self._reporter(peers.status_client)
        """None unless `status.app_slug` is set."""
        hook_grace_s = min(EVENT_HOOK_STOP_MAX_S, config.shutdown.budget_s * HOOK_STOP_SHARE)
        policy = HookPolicy(
            hooks_dir=config.claims.hooks_dir,
            state_dir=config.state.dir,
            environ=os.environ,
            timeout_s=config.stability.hook_timeout_s,
            grace_s=hook_grace_s,
            stop_grace_s=hook_grace_s,
            redact_env=config.snapshots.redact_env,
        )
        self.hooks = EventHooks(
            policy=policy,
            workspace_id=lambda: ledger.workspace_id,
            agent=self._current_agent,
            clock=clock,
            metrics=self.metrics,
        )
        self.last_stop = LastStop(state.path, clock, spool.disk)
        self.final_snapshot = FinalSnapshot(self.watcher, self.recorder, self.delivery, self.agent, clock)
        self.snapshot_due = wiring.SnapshotDue(self.recorder, self.delivery)
        wiring.connect(
            watcher=self.watcher,
            recorder=self.recorder,
            delivery=self.delivery,
            snapshot_due=self.snapshot_due,
            task_reports=self.task_reports,
            reporter=self.reporter,
            hooks=self.hooks,
        )
        self.shutdown = Shutdown(
            final=self.final_snapshot,
            hooks=self.hooks,
            reporter=self.reporter,
            task_reports=self.task_reports,
            last_stop=self.last_stop,
            clock=clock,
            budget_s=config.shutdown.budget_s,
            end_agent=config.shutdown.stop_agent,
        )

    def _current_agent(self) -> tuple[str, str]:
        """The kind of the agent and the id of its current session, as `/v1/status` shows them."""
        return self.agent.kind, next((session.id for session in self.watcher.sessions[:1]), "")

    def drill(self) -> "Drill":
        """A rehearsal of the shutdown with these components."""
        from agentd.daemon.drill import Drill  # noqa: PLC0415 - loaded when a rehearsal is asked for

        return Drill(
            config=self.config,
            clock=self.clock,
            token=self.token,
            headers=self.headers,
            watcher=self.watcher,
            recorder=self.recorder,
            spool=self.spool,
            destinations=self.delivery.names,
        )

    def _listener(self, stream: ReinitStream | None) -> ClaimListener | None:
        config = self.config
        if stream is None or self.token is None:
            return None
        policy = HookPolicy(
            hooks_dir=config.claims.hooks_dir,
            state_dir=config.state.dir,
            environ=os.environ,
            timeout_s=config.claims.hook_timeout_s,
            stop_grace_s=min(CLAIM_HOOK_STOP_MAX_S, config.shutdown.budget_s * HOOK_STOP_SHARE),
            pass_token=config.claims.pass_token,
            redact_env=config.snapshots.redact_env,
        )
        return ClaimListener(
            stream=stream,
            tokens=self.token,
            ledger=self.ledger,
            hook_runner=HookRunner(
                ledger=self.ledger,
                policy=policy,
                clock=self.clock,
                metrics=self.metrics,
                max_attempts=config.claims.max_attempts,
                on_interrupted=config.claims.on_interrupted,
            ),
            clock=self.clock,
            metrics=self.metrics,
            workspace_id=config.workspace.id or None,
            find_missed=partial(self._find_missed, stream, self.token),
        )

    async def _find_missed(self, stream: ReinitStream, token: TokenSource) -> ClaimEvent | None:
        """Only for a server that cannot repeat the event: its event is better evidence than the agent's manifest."""
        version = stream.build_version
        if not version:
            # coderd sends the headers of the stream with its first ping, and a claim may come before that.
            coderd = coderd_client(self.config, token, self.session, self.headers, self.clock)
            version = await coderd.fetch_build_version(timeout_s=FIND_MISSED_TIMEOUT_S)
        if not is_sent_once(version):
            return None
        url = f"http://{self.config.coder.debug_address}/debug/manifest"
        return await missed_claim(
            await read_manifest(self.session, url),
            self.ledger,
            self.config.workspace.id,
            self.config.coder.agent_name,
        )

    def _reporter(self, client: Coderd | None) -> "AppStatusReporter | None":
        if client is None:
            return None
        from agentd.stability.app_status import AppStatusReporter  # noqa: PLC0415 - off in most workspaces

        return AppStatusReporter(
            send=partial(client.update_app_status, self.config.status.app_slug),
            is_ready=self.task_view.is_workspace_ready,
            last=self.task_reports.accepted,
            working_max_s=self.config.status.working_max_s,
            clock=self.clock,
            metrics=self.metrics,
        )


@contextlib.asynccontextmanager
async def build(config: Config, clock: Clock) -> AsyncIterator[Components]:
    """Take the state directory and build all components; closes them at the end.

    Raises `StateError` if the directory is unusable or another agentd holds it, and `ConfigError` as `Components`.
    """
    async with contextlib.AsyncExitStack() as stack:
        state = stack.enter_context(StateDir.open(config.state.dir))
        ledger = stack.enter_context(contextlib.closing(open_ledger(config, clock)))
        spool = stack.enter_context(contextlib.closing(Spool(state.path / SPOOL_DIR)))
        session = await stack.enter_async_context(client_session())
        components = Components(config, clock, state, ledger, spool, session)
        stack.push_async_callback(components.agent.close)
        yield components


async def check(config: Config, clock: Clock) -> None:
    """Raise the `ConfigError` with which the daemon would refuse `config`. Changes nothing and contacts no peer.

    Also for a headers file that is unusable now: the daemon reads it again before each delivery.
    """
    config.require_coder()
    require_short(config.local_api.socket)
    async with client_session() as session:
        await connect(config, session, clock, workspace_id=str).agent.close()
    if any(name.startswith("http") for name in config.snapshots.destinations):
        from agentd.snapshots.destinations import http  # noqa: PLC0415 - most use coderd only

        try:
            http.read_headers(config.snapshots.http_headers_file)
        except RetryableError as exc:
            raise ConfigError(f"snapshots.http_headers_file: {exc.message}", hint=exc.hint) from exc


def connect(
    config: Config,
    session: aiohttp.ClientSession,
    clock: Clock,
    *,
    workspace_id: Callable[[], str],
    metrics: Registry | None = None,
    hooks: HookStates | None = None,
) -> Peers:
    """Build the clients of all peers without contacting one. The caller closes the agent. Raises `ConfigError`."""
    headers = extra_headers(config)
    token = token_source(config, session, headers)

    def client() -> Coderd | None:
        if token is None or not config.coder.url:
            return None
        return coderd_client(config, token, session, headers, clock)

    redact = redactor(config)
    return Peers(
        headers=headers,
        token=token,
        agent=agent_of(config, session=session, clock=clock, redact=redact, metrics=metrics, hooks=hooks),
        stream=claim_stream(config, headers, clock) if config.claims.enabled and token is not None else None,
        status_client=client() if config.status.app_slug else None,
        destinations=_destinations(config, client, session, workspace_id),
        redact=redact,
    )


def _destinations(
    config: Config,
    client: Callable[[], Coderd | None],
    session: aiohttp.ClientSession,
    workspace_id: Callable[[], str],
) -> list[Destination]:
    """The configured destinations, coderd first."""
    names = config.snapshots.destinations
    coderd = client() if "coder" in names else None
    found: list[Destination] = [] if coderd is None else [CoderDestination(coderd)]
    urls = [name for name in names if name != "coder"]
    if not urls:
        return found
    from agentd.snapshots.destinations.by_url import from_urls  # noqa: PLC0415 - most use coderd only
    from agentd.snapshots.destinations.url_template import DestinationContext  # noqa: PLC0415 - the same

    context = DestinationContext(
        session=session,
        folder=config.state.dir / SPOOL_DIR,
        environ=os.environ,
        workspace_id=workspace_id,
        method=config.snapshots.http_method,
        headers_file=config.snapshots.http_headers_file,
        ca_file=config.coder.ca_file,
        redact_env=config.snapshots.redact_env,
    )
    return found + from_urls(urls, context)


def open_ledger(config: Config, clock: Clock) -> Ledger:
    """The ledger of the configured state directory, whose lock the caller holds. Raises `StateError`."""
    return Ledger(config.state.dir, workspace_id=config.workspace.id or None, clock=clock)


def redactor(config: Config) -> Redactor | None:
    """What removes secrets from messages, None if that is off. Raises `ConfigError` for an invalid pattern."""
    if not config.snapshots.redact:
        return None
    for name in config.snapshots.redact_env:
        log.register_secret(os.environ.get(name, ""))
    return Redactor(values=log.registered_secrets, patterns=config.snapshots.redact_patterns)
