"""Builds every component once and hands each the parts it needs. `wiring.py` then connects them.

`build` is for the daemon and for commands that do its work without it; both hold the state directory's lock.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agentd import __version__, log
from agentd.agents.agent import Agent
from agentd.agents.discovery import agent_of
from agentd.claims.hook_runner import HookPolicy, HookRunner
from agentd.claims.ledger import Ledger
from agentd.claims.listener import ClaimListener
from agentd.claims.missed_claim import MissedClaimFinder
from agentd.clock import Clock
from agentd.coderd.access import coderd_client, proxy_headers, token_source
from agentd.coderd.debug_manifest import DebugManifest
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import TokenSource
from agentd.config import Config
from agentd.conversation.redaction import Redactor
from agentd.daemon import wiring
from agentd.daemon.last_stop import LastStop
from agentd.daemon.shutdown import FinalSnapshot, Shutdown
from agentd.daemon.task_view import TaskView
from agentd.hooks.event_hooks import EventHooks
from agentd.http_client import client_session
from agentd.metrics import Registry
from agentd.snapshots.delivery import Delivery
from agentd.snapshots.destinations import CoderDestination, Destination
from agentd.snapshots.recorder import Recorder
from agentd.snapshots.spool import Spool
from agentd.stability.app_status import AppStatusReporter
from agentd.stability.task_reports import TaskReports
from agentd.stability.tracker import Tracker
from agentd.stability.watcher import Watcher
from agentd.state_dir import StateDir
from agentd.tls import aiohttp, client_context

if TYPE_CHECKING:
    from agentd.daemon.drill import Drill

SPOOL_DIR: Final = "spool"

# Time between SIGTERM and SIGKILL of a hook that runs when agentd stops.
CLAIM_HOOK_STOP_SHARE: Final = 0.25
CLAIM_HOOK_STOP_MAX_S: Final = 5.0
EVENT_HOOK_STOP_MAX_S: Final = 1.0


@dataclass(eq=False, repr=False, slots=True)
class Components:
    """The components of one agentd. Only the commands that start it hold this; a component gets its parts."""

    config: Config
    clock: Clock
    session: aiohttp.ClientSession
    state: StateDir
    metrics: Registry
    token: TokenSource | None
    agent: Agent
    tracker: Tracker
    watcher: Watcher
    spool: Spool
    recorder: Recorder
    delivery: Delivery
    ledger: Ledger
    listener: ClaimListener | None
    """None if claims are disabled, or if there is no token."""
    task_reports: TaskReports
    reporter: AppStatusReporter | None
    """None unless `status.app_slug` is set."""
    hooks: EventHooks
    last_stop: LastStop
    final_snapshot: FinalSnapshot
    shutdown: Shutdown
    task_view: TaskView
    snapshot_due: wiring.SnapshotDue


@contextlib.asynccontextmanager
async def build(config: Config, clock: Clock) -> AsyncIterator[Components]:
    """Take the state directory and build all components; closes them at the end.

    Raises `StateError` if the directory is unusable or another agentd holds it, `ConfigError` if a file that the
    configuration names is invalid.
    """
    async with contextlib.AsyncExitStack() as stack:
        state = stack.enter_context(StateDir.open(config.state.dir))
        metrics = Registry()
        metrics.gauge("agentd_info", "Always 1; the version is a label.", "version").set(
            1, version=__version__
        )
        ledger = open_ledger(config, clock)
        stack.callback(ledger.close)
        spool = Spool.open(state.path / SPOOL_DIR)
        stack.callback(spool.close)
        session = await stack.enter_async_context(client_session())
        token = token_source(config, session)
        agent = agent_of(config, session=session, clock=clock)
        stack.push_async_callback(agent.close)
        tracker = Tracker(config.stability.settle_s)
        watcher = Watcher(
            agent=agent,
            tracker=tracker,
            clock=clock,
            poll_interval_s=config.agentapi.poll_interval_s,
            checkpoint_s=config.snapshots.checkpoint_s,
            keep_messages=config.snapshots.max_messages,
        )
        recorder = Recorder(
            spool=spool,
            task_id=config.snapshots.task_id,
            max_messages=config.snapshots.max_messages,
            max_bytes=config.snapshots.max_bytes,
            checkpoint_s=config.snapshots.checkpoint_s,
            clock=clock,
            metrics=metrics,
            redact=_redactor(config),
        )
        delivery = Delivery(
            spool=spool,
            destinations=_destinations(config, token, session, ledger, clock),
            upload=config.snapshots.upload,
            clock=clock,
            metrics=metrics,
        )
        task_reports = TaskReports(folder=state.path, clock=clock, disk=state.disk)
        listener = _listener(config, token, ledger, session, clock, metrics)
        task_view = TaskView(tracker=tracker, task_reports=task_reports, listener=listener)
        reporter = _reporter(config, token, session, task_reports, task_view, clock, metrics)
        hooks = _event_hooks(config, ledger, clock, metrics)
        last_stop = LastStop(state.path, clock, state.disk)
        final_snapshot = FinalSnapshot(watcher, recorder, delivery, agent, clock)
        snapshot_due = wiring.SnapshotDue(recorder, delivery)
        wiring.connect(
            watcher=watcher,
            recorder=recorder,
            snapshot_due=snapshot_due,
            task_reports=task_reports,
            reporter=reporter,
            hooks=hooks,
        )
        shutdown = Shutdown(
            final=final_snapshot,
            hooks=hooks,
            reporter=reporter,
            task_reports=task_reports,
            last_stop=last_stop,
            clock=clock,
            budget_s=config.shutdown.budget_s,
            end_agent=config.shutdown.stop_agent,
        )
        yield Components(
            config=config,
            clock=clock,
            session=session,
            state=state,
            metrics=metrics,
            token=token,
            agent=agent,
            tracker=tracker,
            watcher=watcher,
            spool=spool,
            recorder=recorder,
            delivery=delivery,
            ledger=ledger,
            listener=listener,
            task_reports=task_reports,
            reporter=reporter,
            hooks=hooks,
            last_stop=last_stop,
            final_snapshot=final_snapshot,
            shutdown=shutdown,
            task_view=task_view,
            snapshot_due=snapshot_due,
        )


def open_ledger(config: Config, clock: Clock) -> Ledger:
    """The ledger of the configured state directory, whose lock the caller holds. Raises `StateError`."""
    return Ledger(config.state.dir, workspace_id=config.workspace.id or None, clock=clock)


def drill_of(components: Components) -> "Drill":
    """A rehearsal of the shutdown with these components."""
    from agentd.daemon.drill import Drill  # noqa: PLC0415 - loaded when a rehearsal is asked for

    return Drill(
        config=components.config,
        clock=components.clock,
        token=components.token,
        watcher=components.watcher,
        recorder=components.recorder,
        spool=components.spool,
        destinations=components.delivery.names,
    )


def _destinations(
    config: Config, token: TokenSource | None, session: aiohttp.ClientSession, ledger: Ledger, clock: Clock
) -> list[Destination]:
    """The configured destinations, coderd first. Raises `ConfigError` for a URL with an unknown scheme."""
    names = config.snapshots.destinations
    found: list[Destination] = _by_url([name for name in names if name != "coder"], config, session, ledger)
    if "coder" in names and token is not None and config.coder.url:
        found.insert(0, CoderDestination(coderd_client(config, token, session, clock)))
    return found


def _by_url(
    urls: list[str], config: Config, session: aiohttp.ClientSession, ledger: Ledger
) -> list[Destination]:
    if not urls:
        return []
    from agentd.snapshots.destinations.by_url import DestinationContext, from_url  # noqa: PLC0415 - most use coderd only

    around = DestinationContext(
        session=session,
        folder=config.state.dir / SPOOL_DIR,
        environ=os.environ,
        workspace_id=lambda: ledger.workspace_id or "",
        method=config.snapshots.http_method,
        headers_file=config.snapshots.http_headers_file,
        ca_file=config.coder.ca_file,
    )
    return [from_url(url, around) for url in urls]


def _listener(
    config: Config,
    token: TokenSource | None,
    ledger: Ledger,
    session: aiohttp.ClientSession,
    clock: Clock,
    metrics: Registry,
) -> ClaimListener | None:
    if not config.claims.enabled or token is None:
        return None
    workspace_id = config.workspace.id or None
    policy = HookPolicy(
        hooks_dir=config.claims.hooks_dir,
        state_dir=config.state.dir,
        timeout_s=config.claims.hook_timeout_s,
        max_attempts=config.claims.max_attempts,
        on_interrupted=config.claims.on_interrupted,
        stop_grace_s=min(CLAIM_HOOK_STOP_MAX_S, config.shutdown.budget_s * CLAIM_HOOK_STOP_SHARE),
        pass_token=config.claims.pass_token,
    )
    return ClaimListener(
        stream=ReinitStream(
            config.coder.url,
            context=client_context(config.coder.url, config.coder.ca_file),
            clock=clock,
            headers=proxy_headers(config),
        ),
        tokens=token,
        ledger=ledger,
        hook_runner=HookRunner(
            ledger=ledger, policy=policy, clock=clock, metrics=metrics, environ=os.environ
        ),
        clock=clock,
        metrics=metrics,
        workspace_id=workspace_id,
        find_missed=MissedClaimFinder(
            manifest=DebugManifest(
                session=session, url=f"http://{config.coder.debug_address}/debug/manifest"
            ),
            ledger=ledger,
            workspace_id=workspace_id,
        ).find,
    )


def _reporter(
    config: Config,
    token: TokenSource | None,
    session: aiohttp.ClientSession,
    task_reports: TaskReports,
    task_view: TaskView,
    clock: Clock,
    metrics: Registry,
) -> AppStatusReporter | None:
    if not config.status.app_slug or token is None or not config.coder.url:
        return None
    client = coderd_client(config, token, session, clock)

    async def send(state: str, message: str, uri: str, *, timeout_s: float) -> None:
        await client.update_app_status(config.status.app_slug, state, message, uri, timeout_s=timeout_s)

    return AppStatusReporter(
        send=send,
        is_ready=task_view.is_workspace_ready,
        last=task_reports.accepted,
        clock=clock,
        metrics=metrics,
    )


def _event_hooks(config: Config, ledger: Ledger, clock: Clock, metrics: Registry) -> EventHooks:
    return EventHooks(
        hooks_dir=config.claims.hooks_dir,
        state_dir=config.state.dir,
        timeout_s=config.stability.hook_timeout_s,
        stop_grace_s=min(EVENT_HOOK_STOP_MAX_S, config.shutdown.budget_s * CLAIM_HOOK_STOP_SHARE),
        workspace_id=lambda: ledger.workspace_id,
        clock=clock,
        metrics=metrics,
        environ=os.environ,
    )


def _redactor(config: Config) -> Redactor | None:
    """Raises `ConfigError` for an invalid pattern."""
    if not config.snapshots.redact:
        return None
    for name in config.snapshots.redact_env:
        log.register_secret(os.environ.get(name, ""))
    return Redactor(values=log.registered_secrets, patterns=config.snapshots.redact_patterns)
