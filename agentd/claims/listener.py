"""Hold the claim stream for ever and make each claim act once: stream -> parse -> ledger -> hooks.

Two tasks. One holds the stream and reads it at once whatever happens, because coderd's pings must be read; the other
admits what arrived and acts on it, one claim at a time. What stands between them is the set of events not yet
recorded, so an event that came once (old servers do not repeat it) outlives a full disk.

After a claim has acted the stream stays open: it costs one connection and shows a server that repeats itself. When it
ends it is opened again at a slow pace, because servers v2.32 to v2.34.3 repeat the event on every connection for the
life of a workspace and gain nothing from being asked often.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from agentd import log
from agentd.backoff import Backoff
from agentd.claims.answers import AnswerClass, RetryClass, RetrySchedule, classify, end_label, fleet_offset
from agentd.claims.events import ClaimEvent, Ignored, parse
from agentd.claims.hook_runner import HookRunner
from agentd.claims.ledger import Admitted, Claim, Ledger, LedgerFullError, fingerprint
from agentd.claims.status import ClaimsStatus, ClaimsView
from agentd.clock import Clock
from agentd.coderd.errors import StreamEndedError, UnauthorizedError
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import TokenSource
from agentd.errors import AgentdError
from agentd.metrics import Registry
from agentd.sse import Heartbeat, StreamItem

Reconcile = Callable[[], Awaitable[ClaimEvent | None]]

MAX_QUEUED_EVENTS = 16  # distinct events waiting to be recorded; an honest server sends one
MAX_SAID = 16  # distinct sentences about one connection's events that are logged
LIVED_S = 60.0  # a connection this old was a good one, even if nothing came
RECONCILE_S = 5.0
RECONCILE_EVERY_S = (
    60.0  # while listening: the agent learns of its new owner later than the event would have come
)
# Until then a request that has left may still be refused. The short one is for a start, whose time to listening
# people measure; the long one keeps a refused workspace from flickering between two words at each retry.
QUIET_FIRST_S = 0.03
QUIET_AGAIN_S = 1.0


class ClaimListener:
    """Listens for claims of one workspace.

    `workspace_id` is the configured one. `find_missed` is asked at each connection, and every minute, whether a claim was
    missed, for servers that do not repeat it. `spread_s` is the window over which a fleet comes back after a lost stream: each
    workspace has its fixed place in it, so that they do not come in step. `on_change` is told each new state.
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
        find_missed: Reconcile | None = None,
        spread_s: float = 5.0,
        on_change: Callable[[ClaimsView], None] = lambda _view: None,
    ) -> None:
        self._stream = stream
        self._tokens = tokens
        self._ledger = ledger
        self._hook_runner = hook_runner
        self._clock = clock
        self._workspace_id = workspace_id
        self._reconcile = find_missed
        self._spread_s = spread_s
        self._log = log.get("claims")
        self._status = ClaimsStatus(
            clock=clock,
            log=self._log,
            metrics=metrics,
            claim=ledger.latest,
            doing=lambda: hook_runner.doing,
            next_hook_at=lambda: hook_runner.next_attempt_at,
            on_change=on_change,
        )
        hook_runner.on_change = self._status.update
        self._events = metrics.counter("agentd_claim_events_total", "Events of the claim stream.", "outcome")
        self._ends = metrics.counter(
            "agentd_claim_connections_total", "Connections by how they ended.", "end"
        )
        self._retry_schedule = RetrySchedule()
        self._writing = Backoff(first_s=1.0, cap_s=30.0, floor_s=0.5)
        self._queued: dict[ClaimEvent, None] = {}
        self._said: set[str] = set()
        self._wake_runner = asyncio.Event()
        self._reconnect_requested = asyncio.Event()
        self._connect_started = asyncio.Event()

    async def run(self) -> None:
        """Listen and act until cancelled. A terminal answer parks the stream; it does not end this."""
        self._wake_runner.set()  # what an earlier agentd left unfinished
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._act_for_ever(), name="claim hook_runner")
            tasks.create_task(self._listen_for_ever(), name="claim stream")
            if self._reconcile is not None:
                tasks.create_task(self._reconcile_for_ever(self._reconcile), name="missed claims")

    def view(self) -> ClaimsView:
        """For `/v1/status`."""
        return self._status.view()

    def reconnect(self) -> None:
        """Ask again now, also after a terminal answer: the token or the configuration has changed."""
        self._reconnect_requested.set()

    async def retry(self, claim_id: str) -> Claim:
        """`agentd claims retry`. Raises `UnknownClaimError`, `IllegalClaimStepError` or `LedgerWriteError`."""
        claim = await asyncio.to_thread(self._ledger.retry, claim_id)
        self._log.info("claim.retried", claim=claim_id)
        self._wake_runner.set()
        return claim

    async def forget(self, claim_id: str) -> None:
        """`agentd claims forget`. Raises as `retry`."""
        await asyncio.to_thread(self._ledger.forget, claim_id)
        self._log.info("claim.forgotten", claim=claim_id)
        self._status.update()

    async def _listen_for_ever(self) -> None:
        while True:
            connected_at, self._delivered, self._renewed = self._clock.monotonic(), False, False
            self._said.clear()
            error: AgentdError = StreamEndedError("the server ended the stream")
            try:
                await self._listen_once()
            except AgentdError as exc:
                error = exc
            # Only what was delivered or lasted proves a connection: one that is accepted and closed at once would
            # otherwise be made a thousand times a second.
            lived = self._delivered or self._clock.monotonic() - connected_at >= LIVED_S
            await self._pause(error, lived=lived)

    async def _listen_once(self) -> None:
        token = await self._tokens.current()
        self._ledger.token_fingerprint = fingerprint(token)
        self._wake_runner.set()  # with the token, an unfinished claim may be known as ours
        self._connect_started.set()
        self._status.connecting()
        try:
            async with self._listening_when_quiet() as on_sent:
                items = self._stream.events(token, on_sent=on_sent, on_open=self._opened)
                async with contextlib.aclosing(items):
                    async for item in items:
                        self._receive(item)
        except UnauthorizedError:
            self._renewed = await self._tokens.renew(token)
            raise

    def _opened(self) -> None:
        self._status.listening("connected")

    @contextlib.asynccontextmanager
    async def _listening_when_quiet(self) -> AsyncIterator[Callable[[], None]]:
        """An accepted request is answered with silence until the first ping, so silence has to count as an answer."""
        sent = asyncio.Event()

        async def wait_and_say() -> None:
            await sent.wait()
            await self._clock.sleep(QUIET_AGAIN_S if self._status.failures else QUIET_FIRST_S)
            self._status.listening("request sent and not refused; the first byte comes with the first ping")

        waiting = asyncio.create_task(wait_and_say(), name="claim stream acceptance")
        try:
            yield sent.set
        finally:
            waiting.cancel()

    def _receive(self, item: StreamItem) -> None:
        if isinstance(item, Heartbeat):
            if item.event == "ping":
                self._proven()
            return
        self._status.last_event_at = self._clock.wall()
        match parse(item.event, item.data, workspace_id=self._workspace_id):
            case Ignored() as ignored:
                self._status.ignored += 1
                self._events.inc(outcome="faulty" if ignored.fault else "ignored")
                self._say_once("event.ignored", reason=ignored.reason)
            case ClaimEvent() as event:
                self._enqueue(event)

    def _enqueue(self, event: ClaimEvent) -> None:
        known = self._ledger.find(event)
        if known is not None and known.is_final and not self._adds_information(event, known):
            self._replayed(known)
        elif len(self._queued) < MAX_QUEUED_EVENTS or event in self._queued:
            self._proven()
            self._queued[event] = None
            self._wake_runner.set()
        else:
            self._say_once("event.dropped", reason=f"{MAX_QUEUED_EVENTS} events wait to be recorded already")

    def _adds_information(self, event: ClaimEvent, claim: Claim) -> bool:
        """Whether a replay has something for the ledger: a part it lacks, or that the claim goes with our token too."""
        names_owner = claim.owner_id is None and event.owner_id is not None
        names_workspace = claim.workspace_id is None and event.workspace_id is not None
        return names_owner or names_workspace or claim.token != self._ledger.token_fingerprint

    def _proven(self) -> None:
        self._delivered = True
        self._status.reset_failures()

    async def _reconcile_for_ever(self, find_missed: Reconcile) -> None:
        """Before each connection and now and then: has a claim been missed? Quiet once one is known."""
        while True:
            self._connect_started.clear()
            # Without the token a claim could not be recorded as ours.
            if self._ledger.token_fingerprint is not None and self._ledger.latest() is None:
                await self._look_for_missed(find_missed)
            waiting = asyncio.create_task(self._connect_started.wait(), name="missed claims reconnect")
            try:
                await _first_of(waiting, self._clock.sleep(RECONCILE_EVERY_S))
            finally:
                waiting.cancel()

    async def _look_for_missed(self, find_missed: Reconcile) -> None:
        try:
            async with asyncio.timeout(RECONCILE_S):
                missed = await find_missed()
        except (AgentdError, TimeoutError) as exc:
            self._log.debug("claim.reconcile_failed", error=str(exc))
            return
        if missed is not None and self._ledger.find(missed) is None:
            self._log.warning(
                "claim.missed", reason="the workspace has an owner now, and no event has said so"
            )
            self._enqueue(missed)

    async def _pause(self, error: AgentdError, *, lived: bool) -> None:
        meant = classify(error)
        self._ends.inc(end=end_label(error))
        pause_s = self._pause_s(error, meant, lived=lived)
        self._status.connection_ended(error, meant, retry_in_s=pause_s)
        self._reconnect_requested.clear()  # what was asked for while we were connected has been answered by that connection
        waiting = asyncio.create_task(self._reconnect_requested.wait(), name="claim stream reconnect")
        try:
            if pause_s is None:
                await waiting
            else:
                await _first_of(waiting, self._clock.sleep(pause_s))
        finally:
            waiting.cancel()

    def _pause_s(self, error: AgentdError, meant: AnswerClass, *, lived: bool) -> float | None:
        if lived:
            self._status.reset_failures()
            self._retry_schedule.reset()
        latest = self._ledger.latest()
        pause_s = self._retry_schedule.pause_s(
            RetryClass.SOON if self._renewed else meant.pace,
            claim_settled=latest is not None and latest.is_final,
            asked_s=getattr(error, "retry_after_s", None),
            least_s=self._stream.retry_s or 0.0,
        )
        if pause_s is not None and lived:
            # A restarting coderd cuts every stream at once.
            pause_s += self._spread_s * fleet_offset(
                self._workspace_id or self._ledger.token_fingerprint or ""
            )
        return pause_s

    async def _act_for_ever(self) -> None:
        while True:
            await self._wake_runner.wait()
            self._wake_runner.clear()
            try:
                await self._admit_queued()
                for claim in self._ledger.unfinished():
                    await self._hook_runner.run_claim(claim.id)
            except (AgentdError, OSError) as exc:
                # A full disk, no process to be had, a claim forgotten under our hands: nothing to end agentd for.
                self._log.error("claim.waits", error=str(exc), failures=self._writing.failures)
                await self._clock.sleep(self._writing.next())
                self._wake_runner.set()
            else:
                self._writing.reset()
            self._status.update()

    async def _admit_queued(self) -> None:
        while self._queued:
            event = next(iter(self._queued))
            try:
                admission = await asyncio.to_thread(self._ledger.admit, event)
            except LedgerFullError as exc:
                self._log.error("event.dropped", reason=str(exc))
                del self._queued[event]
                continue
            del self._queued[event]
            claim = admission.claim
            if isinstance(admission, Admitted):
                self._events.inc(outcome="admitted")
                self._log.info(
                    "claim.admitted", claim=claim.id, workspace=claim.workspace_id, owner=claim.owner_id
                )
            else:
                self._replayed(claim)

    def _replayed(self, claim: Claim) -> None:
        self._status.replays += 1
        self._events.inc(outcome="replayed")
        self._say_once("claim.replayed", claim=claim.id, state=claim.state.value)

    def _say_once(self, event: str, **facts: str) -> None:
        """Once per connection: a server may repeat itself ten thousand times."""
        sentence = f"{event} {sorted(facts.items())}"
        if sentence not in self._said and len(self._said) < MAX_SAID:
            self._said.add(sentence)
            self._log.info(event, **facts)


async def _first_of(task: asyncio.Task[bool], other: Awaitable[None]) -> None:
    sleeping = asyncio.ensure_future(other)
    try:
        await asyncio.wait({task, sleeping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeping.cancel()
