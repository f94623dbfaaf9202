"""Builds every object once and hands each what it needs. The only place that knows all rooms.

`furnish` is for the daemon and for the commands that do its work without it: both hold the state directory's lock.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentd import __version__, log
from agentd.agents.agentapi.client import AgentApi
from agentd.agents.agentapi.saved_state import SavedState
from agentd.claims.answers import ClaimsState
from agentd.claims.hook_runner import HookPolicy, HookRunner
from agentd.claims.ledger import Ledger
from agentd.claims.listener import ClaimListener
from agentd.claims.missed_claim import MissedClaimFinder
from agentd.clock import Clock, SameMoment
from agentd.coderd.access import coderd_client, proxy_headers, token_source
from agentd.coderd.debug_manifest import DebugManifest
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import TokenSource
from agentd.config import Config
from agentd.conversation.message import Message
from agentd.conversation.redaction import Redactor
from agentd.daemon import gauges
from agentd.daemon.last_stop import LastStop
from agentd.daemon.phase import Phase
from agentd.hooks.event_hooks import EventHooks, HookEvent
from agentd.http_client import client_session
from agentd.metrics import Registry
from agentd.snapshots.delivery import Delivery
from agentd.snapshots.destinations import CoderDestination, Destination
from agentd.snapshots.recorder import Recorder
from agentd.snapshots.spool import Spool
from agentd.stability.desk import TaskDesk
from agentd.stability.tracker import AgentStatus, Tracker, Transition
from agentd.stability.watcher import Watcher
from agentd.state_dir import StateDir
from agentd.tls import aiohttp, client_context

if TYPE_CHECKING:
    from agentd.daemon.telling import Telling

SPOOL_DIR = "spool"

# Between TERM and KILL of a hook that runs when agentd is stopped.
HOOK_GRACE_SHARE = 0.25
HOOK_GRACE_MAX_S = 5.0
# A notification has less to put in order than a claim.
OCCASION_GRACE_MAX_S = 1.0

_OCCASIONS = {AgentStatus.STABLE: HookEvent.STABLE, AgentStatus.RUNNING: HookEvent.BUSY}
_NOT_UP = (ClaimsState.CONNECTING, ClaimsState.UNAUTHORIZED, ClaimsState.ACTING)

# What SIGHUP applies at once; anything else in the file needs a restart, which `reload` says by name.
LIVE_KEYS = frozenset({"snapshots.task_id", "log.level", "log.format"})


@dataclass(eq=False, repr=False)
class Rooms:
    """Everything one agentd consists of, built and not yet running."""

    config: Config
    clock: Clock
    started_at: float
    state: StateDir
    last_stop: LastStop
    metrics: Registry
    token: TokenSource | None
    agent: AgentApi
    tracker: Tracker
    watcher: Watcher
    spool: Spool
    recorder: Recorder
    saved: SavedState
    delivery: Delivery
    ledger: Ledger
    listener: ClaimListener | None
    quiet: asyncio.Event
    """Set when the agent has settled or gone: time to have its conversation on disk and on its way."""
    reached: asyncio.Event
    """Set once the agent has answered in this run."""
    desk: TaskDesk
    occasions: EventHooks
    telling: "Telling | None"
    """Tells coderd about the task; None unless `status.app_slug` is set."""
    on_change: list[Callable[[], None]]
    """Called when the agent's status or the task's state has changed."""
    agent_since: SameMoment
    phase: Phase = Phase.RUNNING

    def facts(self) -> dict[str, Any]:
        """What the first log line says."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "state_dir": str(self.config.state.dir),
            "socket": str(self.config.local_api.socket),
            "coder_url": self.config.coder.url,
            "agentapi_url": self.config.agentapi.url,
        }

    async def keep_when_quiet(self) -> None:
        """Whenever the agent has settled or gone: write its conversation and send it on its way. Forever."""
        while True:
            await self.quiet.wait()
            self.quiet.clear()
            if self.tracker.state is AgentStatus.UNREACHABLE:
                await self.saved.recall()
            await self.recorder.flush_to_disk()
            self.delivery.request_upload()

    async def last_look(self, timeout_s: float) -> bool:
        """Read the conversation once more, from the agent or else from what it saved. False when it did not answer."""
        answered = await self.watcher.refresh(timeout_s)
        if not answered:
            await self.saved.recall()
        return answered

    async def reconfigure(self, fresh: Config) -> list[str]:
        """Apply what can be applied while running; returns the changed keys that need a restart."""
        changed = fresh.differences(self.config)
        if self.token is not None and self.listener is not None:
            await self.token.renew(await self.token.current())
            self.listener.reconnect()
        if "snapshots.task_id" in changed:
            self.recorder.set_task(fresh.snapshots.task_id)
        if changed & {"log.level", "log.format"}:
            log.configure(level=fresh.log.level, fmt=fresh.log.format)
        self.config = fresh if changed <= LIVE_KEYS else self.config
        return sorted(changed - LIVE_KEYS)


@contextlib.asynccontextmanager
async def furnish(config: Config, clock: Clock) -> AsyncIterator[Rooms]:
    """Take the state directory and build everything in it; closes it all again at the end.

    Raises `StateError` when the directory is unusable or held, `ConfigError` when a file the configuration names is
    not what it should be.
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
        delivery = Delivery(
            spool=spool,
            destinations=_destinations(config, token, session, ledger),
            upload=config.snapshots.upload,
            clock=clock,
            metrics=metrics,
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
        quiet, reached = asyncio.Event(), asyncio.Event()
        on_change: list[Callable[[], None]] = []

        def changed() -> None:
            for call in on_change:
                call()

        desk = TaskDesk(folder=state.path, clock=clock, on_change=changed)
        occasions = _occasion_hooks(config, ledger, clock, metrics)

        def on_transition(transition: Transition) -> None:
            if transition.new is not AgentStatus.UNREACHABLE:
                reached.set()
            if transition.new in (AgentStatus.STABLE, AgentStatus.UNREACHABLE):
                quiet.set()
            if transition.new in _OCCASIONS:
                occasions.trigger(_OCCASIONS[transition.new])
            desk.hear_agent(transition)
            changed()

        def on_messages(window: Sequence[Message]) -> None:
            recorder.record_messages(window)
            desk.hear_messages(window)

        agent = AgentApi(config.agentapi.url, session=session, tls=client_context(config.agentapi.url))
        stack.push_async_callback(agent.close)
        tracker = Tracker(config.stability.settle_s)
        watcher = Watcher(
            agent=agent,
            tracker=tracker,
            clock=clock,
            poll_interval_s=config.agentapi.poll_interval_s,
            checkpoint_s=config.snapshots.checkpoint_s,
            keep_messages=config.snapshots.max_messages,
            on_messages=on_messages,
            on_transition=on_transition,
        )
        last_stop, started_at = LastStop(state.path, clock), clock.wall()
        gauges.register(
            metrics, started_at=started_at, tracker=tracker, state=state, spool=spool, last_stop=last_stop
        )
        listener = _listener(config, token, ledger, session, clock, metrics)
        telling = None
        if config.status.app_slug and token is not None and config.coder.url:
            from agentd.daemon.telling import Telling  # noqa: PLC0415 - off in most workspaces

            telling = Telling(
                coderd=coderd_client(config, token, session),
                app_slug=config.status.app_slug,
                desk=desk,
                ready=lambda: reached.is_set() and (listener is None or listener.view().state not in _NOT_UP),
                clock=clock,
                metrics=metrics,
            )
            on_change.append(telling.offer)
        yield Rooms(
            config=config,
            clock=clock,
            started_at=started_at,
            state=state,
            last_stop=last_stop,
            metrics=metrics,
            token=token,
            agent=agent,
            tracker=tracker,
            watcher=watcher,
            spool=spool,
            recorder=recorder,
            saved=SavedState(
                config.agentapi.state_file,
                keep=config.snapshots.max_messages,
                offer=recorder.merge_state_file,
            ),
            delivery=delivery,
            ledger=ledger,
            listener=listener,
            quiet=quiet,
            reached=reached,
            desk=desk,
            occasions=occasions,
            telling=telling,
            on_change=on_change,
            agent_since=SameMoment(clock),
        )


def open_ledger(config: Config, clock: Clock) -> Ledger:
    """The ledger of the configured state directory, whose lock the caller holds. Raises `StateError`."""
    return Ledger(config.state.dir, workspace_id=config.workspace.id or None, clock=clock)


def _destinations(
    config: Config, token: TokenSource | None, session: aiohttp.ClientSession, ledger: Ledger
) -> list[Destination]:
    """Raises `ConfigError` for a URL nobody serves."""
    names = config.snapshots.destinations
    found: list[Destination] = _by_url([name for name in names if name != "coder"], config, session, ledger)
    if "coder" in names and token is not None and config.coder.url:
        found.insert(0, CoderDestination(coderd_client(config, token, session)))
    return found


def _by_url(
    urls: list[str], config: Config, session: aiohttp.ClientSession, ledger: Ledger
) -> list[Destination]:
    if not urls:
        return []
    from agentd.snapshots.destinations.by_url import Surroundings, from_url  # noqa: PLC0415 - most have coderd alone

    around = Surroundings(
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
        stop_grace_s=min(HOOK_GRACE_MAX_S, config.shutdown.budget_s * HOOK_GRACE_SHARE),
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
            source=DebugManifest(session=session, url=f"http://{config.coder.debug_address}/debug/manifest"),
            ledger=ledger,
            workspace_id=workspace_id,
        ),
    )


def _occasion_hooks(config: Config, ledger: Ledger, clock: Clock, metrics: Registry) -> EventHooks:
    return EventHooks(
        hooks_dir=config.claims.hooks_dir,
        state_dir=config.state.dir,
        timeout_s=config.stability.hook_timeout_s,
        stop_grace_s=min(OCCASION_GRACE_MAX_S, config.shutdown.budget_s * HOOK_GRACE_SHARE),
        workspace_id=lambda: ledger.workspace_id,
        clock=clock,
        metrics=metrics,
        environ=os.environ,
    )


def _redactor(config: Config) -> Redactor | None:
    """Raises `ConfigError` for a pattern that is none."""
    if not config.snapshots.redact:
        return None
    for name in config.snapshots.redact_env:
        log.register_secret(os.environ.get(name, ""))
    return Redactor(values=log.registered_secrets, patterns=config.snapshots.redact_patterns)
