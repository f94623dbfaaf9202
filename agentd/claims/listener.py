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
from agentd.claims.acting import Actor
from agentd.claims.answers import Meaning, Pace, Pacing, meaning, place_in_fleet
from agentd.claims.events import ClaimEvent, Ignored, parse
from agentd.claims.ledger import Admitted, Claim, Ledger, LedgerFull, fingerprint
from agentd.claims.standing import ClaimsView, Standing
from agentd.clock import Clock
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.stream_faults import StreamEnded, Unauthorized
from agentd.coderd.token import TokenSource
from agentd.errors import AgentdError
from agentd.metrics import Registry
from agentd.sse import Heartbeat, StreamItem

Reconcile = Callable[[], Awaitable[ClaimEvent | None]]

MAX_ARRIVED = 16  # distinct events waiting to be recorded; an honest server sends one
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

    `workspace_id` is the configured one. `reconcile` is asked at each connection, and every minute, whether a claim was
    missed, for servers that do not repeat it. `spread_s` is the window over which a fleet comes back after a lost stream: each
    workspace has its fixed place in it, so that they do not come in step. `on_change` is told each new state.
    """

    def __init__(
        self,
        *,
        stream: ReinitStream,
        tokens: TokenSource,
        ledger: Ledger,
        actor: Actor,
        clock: Clock,
        metrics: Registry,
        workspace_id: str | None = None,
        reconcile: Reconcile | None = None,
        spread_s: float = 5.0,
        on_change: Callable[[ClaimsView], None] = lambda _view: None,
    ) -> None:
        self._stream = stream
        self._tokens = tokens
        self._ledger = ledger
        self._actor = actor
        self._clock = clock
        self._workspace_id = workspace_id
        self._reconcile = reconcile
        self._spread_s = spread_s
        self._log = log.get("claims")
        self._standing = Standing(
            clock=clock,
            log=self._log,
            metrics=metrics,
            claim=ledger.latest,
            doing=lambda: actor.doing,
            next_hook_at=lambda: actor.next_attempt_at,
            on_change=on_change,
        )
        actor.on_change = self._standing.update
        self._events = metrics.counter("agentd_claim_events_total", "Events of the claim stream.", "outcome")
        self._ends = metrics.counter(
            "agentd_claim_connections_total", "Connections by how they ended.", "end"
        )
        self._pacing = Pacing()
        self._writing = Backoff(first_s=1.0, cap_s=30.0, floor_s=0.5)
        self._arrived: dict[ClaimEvent, None] = {}
        self._said: set[str] = set()
        self._work = asyncio.Event()
        self._again = asyncio.Event()
        self._reconnecting = asyncio.Event()

    async def run(self) -> None:
        """Listen and act until cancelled. A terminal answer parks the stream; it does not end this."""
        self._work.set()  # what an earlier agentd left unfinished
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._act_for_ever(), name="claim actor")
            tasks.create_task(self._listen_for_ever(), name="claim stream")
            if self._reconcile is not None:
                tasks.create_task(self._reconcile_for_ever(self._reconcile), name="missed claims")

    def view(self) -> ClaimsView:
        """For `/v1/status`."""
        return self._standing.view()

    def reconnect(self) -> None:
        """Ask again now, also after a terminal answer: the token or the configuration has changed."""
        self._again.set()

    async def retry(self, claim_id: str) -> Claim:
        """`agentd claims retry`. Raises `UnknownClaim`, `IllegalStep` or `LedgerUnwritable`."""
        claim = await asyncio.to_thread(self._ledger.retry, claim_id)
        self._log.info("claim.retried", claim=claim_id)
        self._work.set()
        return claim

    async def forget(self, claim_id: str) -> None:
        """`agentd claims forget`. Raises as `retry`."""
        await asyncio.to_thread(self._ledger.forget, claim_id)
        self._log.info("claim.forgotten", claim=claim_id)
        self._standing.update()

    async def _listen_for_ever(self) -> None:
        while True:
            connected_at, self._delivered, self._renewed = self._clock.monotonic(), False, False
            self._said.clear()
            error: AgentdError = StreamEnded("the server ended the stream")
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
        self._ledger.token = fingerprint(token)
        self._work.set()  # with the token, an unfinished claim may be known as ours
        self._reconnecting.set()
        self._standing.connecting()
        try:
            async with self._listening_when_quiet() as on_sent:
                items = self._stream.events(token, on_sent=on_sent, on_open=self._opened)
                async with contextlib.aclosing(items):
                    async for item in items:
                        self._receive(item)
        except Unauthorized:
            self._renewed = await self._tokens.renew(token)
            raise

    def _opened(self) -> None:
        self._standing.listening("connected")

    @contextlib.asynccontextmanager
    async def _listening_when_quiet(self) -> AsyncIterator[Callable[[], None]]:
        """An accepted request is answered with silence until the first ping, so silence has to count as an answer."""
        sent = asyncio.Event()

        async def wait_and_say() -> None:
            await sent.wait()
            await self._clock.sleep(QUIET_AGAIN_S if self._standing.failures else QUIET_FIRST_S)
            self._standing.listening("request sent and not refused; the first byte comes with the first ping")

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
        self._standing.last_event_at = self._clock.wall()
        match parse(item.event, item.data, workspace_id=self._workspace_id):
            case Ignored() as ignored:
                self._standing.ignored += 1
                self._events.inc(outcome="faulty" if ignored.fault else "ignored")
                self._say_once("event.ignored", reason=ignored.reason)
            case ClaimEvent() as event:
                self._arrive(event)

    def _arrive(self, event: ClaimEvent) -> None:
        known = self._ledger.find(event)
        if known is not None and known.settled and not self._says_more(event, known):
            self._replayed(known)
        elif len(self._arrived) < MAX_ARRIVED or event in self._arrived:
            self._proven()
            self._arrived[event] = None
            self._work.set()
        else:
            self._say_once("event.dropped", reason=f"{MAX_ARRIVED} events wait to be recorded already")

    def _says_more(self, event: ClaimEvent, claim: Claim) -> bool:
        """Whether a replay has something for the ledger: a part it lacks, or that the claim goes with our token too."""
        names_owner = claim.owner_id is None and event.owner_id is not None
        names_workspace = claim.workspace_id is None and event.workspace_id is not None
        return names_owner or names_workspace or claim.token != self._ledger.token

    def _proven(self) -> None:
        self._delivered = True
        self._standing.proven()

    async def _reconcile_for_ever(self, reconcile: Reconcile) -> None:
        """Before each connection and now and then: has a claim been missed? Quiet once one is known."""
        while True:
            self._reconnecting.clear()
            # Without the token a claim could not be recorded as ours.
            if self._ledger.token is not None and self._ledger.latest() is None:
                await self._look_for_missed(reconcile)
            waiting = asyncio.create_task(self._reconnecting.wait(), name="missed claims reconnect")
            try:
                await _first_of(waiting, self._clock.sleep(RECONCILE_EVERY_S))
            finally:
                waiting.cancel()

    async def _look_for_missed(self, reconcile: Reconcile) -> None:
        try:
            async with asyncio.timeout(RECONCILE_S):
                missed = await reconcile()
        except (AgentdError, TimeoutError) as exc:
            self._log.debug("claim.reconcile_failed", error=str(exc))
            return
        if missed is not None and self._ledger.find(missed) is None:
            self._log.warning(
                "claim.missed", reason="the workspace has an owner now, and no event has said so"
            )
            self._arrive(missed)

    async def _pause(self, error: AgentdError, *, lived: bool) -> None:
        meant = meaning(error)
        self._ends.inc(end=type(error).__name__)
        pause_s = self._pause_s(error, meant, lived=lived)
        self._standing.lost(error, meant, retry_in_s=pause_s)
        self._again.clear()  # what was asked for while we were connected has been answered by that connection
        waiting = asyncio.create_task(self._again.wait(), name="claim stream reconnect")
        try:
            if pause_s is None:
                await waiting
            else:
                await _first_of(waiting, self._clock.sleep(pause_s))
        finally:
            waiting.cancel()

    def _pause_s(self, error: AgentdError, meant: Meaning, *, lived: bool) -> float | None:
        if lived:
            self._standing.proven()
            self._pacing.reset()
        latest = self._ledger.latest()
        pause_s = self._pacing.pause_s(
            Pace.SOON if self._renewed else meant.pace,
            claim_settled=latest is not None and latest.settled,
            asked_s=getattr(error, "retry_after_s", None),
            least_s=self._stream.retry_s or 0.0,
        )
        if pause_s is not None and lived:
            # A restarting coderd cuts every stream at once.
            pause_s += self._spread_s * place_in_fleet(self._workspace_id or self._ledger.token or "")
        return pause_s

    async def _act_for_ever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._admit_arrived()
                for claim in self._ledger.unfinished():
                    await self._actor.act(claim.id)
            except (AgentdError, OSError) as exc:
                # A full disk, no process to be had, a claim forgotten under our hands: nothing to end agentd for.
                self._log.error("claim.waits", error=str(exc), failures=self._writing.failures)
                await self._clock.sleep(self._writing.next())
                self._work.set()
            else:
                self._writing.reset()
            self._standing.update()

    async def _admit_arrived(self) -> None:
        while self._arrived:
            event = next(iter(self._arrived))
            try:
                admission = await asyncio.to_thread(self._ledger.admit, event)
            except LedgerFull as exc:
                self._log.error("event.dropped", reason=str(exc))
                del self._arrived[event]
                continue
            del self._arrived[event]
            claim = admission.claim
            if isinstance(admission, Admitted):
                self._events.inc(outcome="admitted")
                self._log.info(
                    "claim.admitted", claim=claim.id, workspace=claim.workspace_id, owner=claim.owner_id
                )
            else:
                self._replayed(claim)

    def _replayed(self, claim: Claim) -> None:
        self._standing.replays += 1
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
