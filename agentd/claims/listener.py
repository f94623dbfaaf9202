"""Receives claims and runs their hooks: stream → event → ledger → hooks.

One task holds the stream and always reads it, because coderd's pings must be read. Another task records the
received events in the ledger, which deduplicates them, and runs the hooks of one claim at a time. Between
them is the queue of events that are not recorded yet. An event that comes only once (old servers do not
repeat it) stays there until the disk accepts it.

After a claim is done the stream stays open. It costs one connection and shows whether the server repeats the
claim. When it ends, agentd reconnects with growing pauses, because servers v2.32 to v2.34.3 repeat the event
on every connection for the life of a workspace.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from agentd import log
from agentd.backoff import Backoff
from agentd.claims.answers import AnswerClass, RetryClass, RetrySchedule, classify, fleet_offset
from agentd.claims.claim import Claim
from agentd.claims.events import ClaimEvent, Ignored, parse
from agentd.claims.hook_runner import HookRunner
from agentd.claims.ledger import Ledger, LedgerFullError, fingerprint
from agentd.claims.status import ClaimsStatus, ClaimsView
from agentd.clock import Clock
from agentd.coderd.errors import CoderdError, UnauthorizedError
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import TokenSource
from agentd.errors import AgentdError
from agentd.metrics import Registry
from agentd.restarting import keep_running
from agentd.sse import Heartbeat, StreamItem

FindMissed = Callable[[], Awaitable[ClaimEvent | None]]

MAX_QUEUED_EVENTS: Final = 16
"""Distinct events that are not recorded yet. A correct server sends one."""
MAX_LOGGED: Final = 16
"""Distinct log lines about the events of one connection."""
GOOD_CONNECTION_S: Final = 60.0
"""A connection that lasts this long is good, even if it delivers nothing."""
FLEET_SPREAD_S: Final = 5.0
"""The window in which a fleet reconnects after a restart of coderd. Each workspace has a fixed offset."""
FIND_MISSED_TIMEOUT_S: Final = 5.0
FIND_MISSED_EVERY_S: Final = 60.0
"""While listening: the agent learns of its new owner later than the event would have come."""

# The delay before an unanswered request counts as listening: short at the start, whose time to listening is
# measured, and longer after a failure, so that the state does not alternate at each retry.
LISTENING_AFTER_S: Final = 0.03
LISTENING_AFTER_FAILURE_S: Final = 1.0


class ClaimListener:
    """Listens for claims of one workspace and runs their hooks with `hook_runner`.

    `workspace_id` is the configured one. `find_missed` returns a claim whose event did not arrive; it is
    called at each connection and every minute, for servers that do not repeat a claim.
    """

    def __init__(
        self,
        *,
        stream: ReinitStream,
        tokens: TokenSource,
        ledger: Ledger,
        hook_runner: HookRunner,
        clock: Clock,
        metrics: Registry,
        workspace_id: str | None = None,
        find_missed: FindMissed | None = None,
    ) -> None:
        self._stream = stream
        self._tokens = tokens
        self._ledger = ledger
        self._hook_runner = hook_runner
        self._clock = clock
        self._workspace_id = workspace_id
        self._find_missed = find_missed
        self._log = log.get("claims")
        self._status = ClaimsStatus(ledger, hook_runner, clock=clock, metrics=metrics)
        self._events = metrics.counter("agentd_claim_events_total", "Events of the claim stream.", "outcome")
        self._ends = metrics.counter("agentd_claim_connections_total", "Connections by their end.", "end")
        self._retry_schedule = RetrySchedule()
        self._claim_backoff = Backoff(first_s=1.0, cap_s=30.0, floor_s=0.5)
        self._queued: dict[ClaimEvent, None] = {}
        self._logged: set[str] = set()
        self._wake_runner = asyncio.Event()
        self._reconnect_requested = asyncio.Event()
        self._connect_started = asyncio.Event()
        self._connection_is_good = False
        self._token_renewed = False
        self._connection: asyncio.Timeout | None = None
        self._connection_token = ""

    async def run(self) -> None:
        """Listen and run hooks until cancelled. A terminal answer only parks the stream."""
        async with asyncio.TaskGroup() as tasks:
            # A defect in one of them must not interrupt a hook that another one runs.
            tasks.create_task(keep_running("claim hooks", self._run_claims, self._clock), name="claim hooks")
            tasks.create_task(keep_running("claim stream", self._listen, self._clock), name="claim stream")
            if self._find_missed is not None:
                find = partial(self._enqueue_missed_claims, self._find_missed)
                tasks.create_task(keep_running("missed claims", find, self._clock), name="missed claims")

    def view(self) -> ClaimsView:
        """For `/v1/status`."""
        return self._status.view()

    def reconnect(self, token: str) -> None:
        """End the wait for the next connection, also after a terminal answer. `token` is the present one.

        A live stream with another token is closed and opened with this one. One with the same token stays open, because
        coderd before v2.32 does not repeat a claim that comes in between.
        """
        self._reconnect_requested.set()
        if self._connection is not None and token != self._connection_token:
            self._connection.reschedule(asyncio.get_running_loop().time())

    async def retry(self, claim_id: str) -> Claim:
        """For `agentd claims retry`. Raises as `Ledger.retry`."""
        claim = await asyncio.to_thread(self._ledger.retry, claim_id)
        self._log.info("claim.retried", claim=claim_id)
        self._wake_runner.set()
        return claim

    async def forget(self, claim_id: str) -> None:
        """For `agentd claims forget`. Raises as `Ledger.forget`."""
        await asyncio.to_thread(self._ledger.forget, claim_id)
        self._log.info("claim.forgotten", claim=claim_id)
        self._status.update()

    async def _run_claims(self) -> None:
        """Admit the queued events, then run the hooks of each unfinished claim; again after each wake-up."""
        self._wake_runner.set()  # for claims that an earlier agentd left unfinished
        while True:
            await self._wake_runner.wait()
            self._wake_runner.clear()
            try:
                await self._admit_queued()
                for claim in self._ledger.unfinished():
                    await self._hook_runner.run_claim(claim.id)
            except (AgentdError, OSError) as exc:
                # A full disk, no free process or a claim that was forgotten while it ran must not end agentd.
                retry_in_s = self._claim_backoff.next()
                self._log.error("claim.retry_scheduled", reason=str(exc), retry_in_s=round(retry_in_s, 2))
                await self._clock.sleep(retry_in_s)
                self._wake_runner.set()
            else:
                self._claim_backoff.reset()
            self._status.update()

    async def _admit_queued(self) -> None:
        while self._queued:
            event = next(iter(self._queued))
            try:
                claim, is_replay = await asyncio.to_thread(self._ledger.admit, event)
            except LedgerFullError as exc:
                self._log.error("event.dropped", reason=str(exc))
            else:
                if is_replay:
                    self._count_replay(claim)
                else:
                    self._events.inc(outcome="admitted")
                    facts = {"workspace": claim.workspace_id, "owner": claim.owner_id}
                    self._log.info("claim.admitted", claim=claim.id, **facts)
            del self._queued[event]

    async def _listen(self) -> None:
        while True:
            connected_at = self._clock.monotonic()
            self._connection_is_good = self._token_renewed = False
            self._logged.clear()
            try:
                await self._connect()
            except AgentdError as exc:
                # A connection is good if it delivered something or lasted. To accept it is not enough: a
                # server that accepts and closes at once would get a thousand connections a second.
                if self._clock.monotonic() - connected_at >= GOOD_CONNECTION_S:
                    self._connection_is_good = True
                await self._pause(exc)

    async def _connect(self) -> None:
        """Open one connection and read it to its end. Raises the `AgentdError` of its end.

        Returns only if `reconnect` closed it for a new token.
        """
        token = self._connection_token = await self._tokens.current()
        self._ledger.token_fingerprint = fingerprint(token)
        self._wake_runner.set()  # the token may show that an unfinished claim belongs to this workspace
        self._connect_started.set()
        self._status.connecting()
        sent = asyncio.Event()
        acceptance = asyncio.create_task(self._listening_after_delay(sent), name="claim stream acceptance")

        def opened() -> None:
            acceptance.cancel()  # it is known now
            self._status.listening("connected")

        items = self._stream.events(token, on_sent=sent.set, on_open=opened)
        try:
            async with asyncio.timeout(None) as self._connection, contextlib.aclosing(items):
                async for item in items:
                    self._receive(item)
        except TimeoutError:
            self._ends.inc(end="token_changed")
            self._log.info("stream.reopened", reason="the token has changed")
        except UnauthorizedError:
            acceptance.cancel()  # the exchange for a new token can take longer than the delay
            self._token_renewed = await self._tokens.renew(token)
            raise
        finally:
            self._connection = None
            acceptance.cancel()

    async def _listening_after_delay(self, sent: asyncio.Event) -> None:
        """Count a delay without refusal as listening, because coderd sends nothing before its first ping."""
        await sent.wait()
        await self._clock.sleep(LISTENING_AFTER_FAILURE_S if self._status.failures else LISTENING_AFTER_S)
        self._status.listening(
            "request sent, no refusal so far; coderd sends its first byte with its first ping (up to 15 s)"
        )

    def _receive(self, item: StreamItem) -> None:
        if isinstance(item, Heartbeat):
            if item.event == "ping":
                self._mark_connection_good()
            return
        self._status.last_event_at = self._clock.wall()
        match parse(item.event, item.data, workspace_id=self._workspace_id):
            case Ignored() as ignored:
                self._status.ignored += 1
                self._events.inc(outcome="faulty" if ignored.fault else "ignored")
                self._log_once("event.ignored", reason=ignored.reason)
            case ClaimEvent() as event:
                self._enqueue(event)

    def _enqueue(self, event: ClaimEvent) -> None:
        """Queue the event for the ledger, unless it is a replay that adds nothing to a final claim."""
        known = self._ledger.find(event)
        if known is not None and known.is_final and not self._ledger.new_facts(event, known):
            self._count_replay(known)
        elif len(self._queued) < MAX_QUEUED_EVENTS or event in self._queued:
            self._mark_connection_good()
            self._queued[event] = None
            self._wake_runner.set()
        else:
            self._log_once("event.dropped", reason=f"{MAX_QUEUED_EVENTS} events already wait to be recorded")

    def _mark_connection_good(self) -> None:
        self._connection_is_good = True
        self._status.reset_failures()

    async def _enqueue_missed_claims(self, find_missed: FindMissed) -> None:
        """Look for a missed claim at each connection and every minute, until a claim is known."""
        while True:
            self._connect_started.clear()
            # Without the token, the claim could not be recorded as one of this workspace.
            if self._ledger.token_fingerprint is not None and self._ledger.latest() is None:
                await self._enqueue_missed_claim(find_missed)
            await self._clock.wait_event(self._connect_started, FIND_MISSED_EVERY_S)

    async def _enqueue_missed_claim(self, find_missed: FindMissed) -> None:
        try:
            async with asyncio.timeout(FIND_MISSED_TIMEOUT_S):
                missed = await find_missed()
        except (AgentdError, TimeoutError) as exc:
            self._log.debug("claim.reconcile_failed", error=str(exc))
            return
        if missed is not None and self._ledger.find(missed) is None:
            reason = "the workspace has an owner, but no claim event arrived; its hooks run now"
            self._log.warning("claim.missed", reason=reason)
            self._enqueue(missed)

    async def _pause(self, error: AgentdError) -> None:
        """Wait before the next connection; a terminal answer waits for `reconnect`."""
        answer = classify(error)
        self._ends.inc(end=error.label)
        pause_s = self._pause_s(error, answer)
        self._status.connection_ended(error, answer, retry_in_s=pause_s)
        self._reconnect_requested.clear()  # a request that came during the connection is out of date
        await self._clock.wait_event(self._reconnect_requested, pause_s)

    def _pause_s(self, error: AgentdError, answer: AnswerClass) -> float | None:
        if self._connection_is_good:
            self._status.reset_failures()
            self._retry_schedule.reset()
        latest = self._ledger.latest()
        pause_s = self._retry_schedule.pause_s(
            RetryClass.SOON if self._token_renewed else answer.retry,
            claim_is_final=latest is not None and latest.is_final,
            retry_after_s=error.retry_after_s if isinstance(error, CoderdError) else None,
            stream_retry_s=self._stream.retry_s or 0.0,
        )
        if pause_s is not None and self._connection_is_good:
            # A restart of coderd ends the streams of all workspaces at once.
            name = self._workspace_id or self._ledger.token_fingerprint or ""
            pause_s += FLEET_SPREAD_S * fleet_offset(name)
        return pause_s

    def _count_replay(self, claim: Claim) -> None:
        self._status.replays += 1
        self._events.inc(outcome="replayed")
        self._log_once("claim.replayed", claim=claim.id, state=claim.state.value)

    def _log_once(self, event: str, **facts: str) -> None:
        """Log the same line once per connection, because a server may repeat an event ten thousand times."""
        line = f"{event} {sorted(facts.items())}"
        if line not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(line)
            self._log.info(event, **facts)
