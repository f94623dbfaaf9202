"""The claim ledger of one state directory: the claims this workspace has seen and the state of each.

The ledger deduplicates events: an event that matches a known claim is a replay and admits nothing. Each
writing method appends one durable record. When it returns, the record is fsynced; when it raises, nothing has
changed. It blocks for one fsync (50 µs, at worst 20 ms), so a caller on an event loop runs it in a thread.

A state directory may be part of an image or of a cloned volume. Therefore the records carry the workspace id
and a one-way fingerprint of the agent token: a claim of another workspace does not suppress a claim of this
workspace, and its unfinished hooks do not run here. Without a configured workspace id the fingerprint
identifies the workspace. It stays the same across a claim, because coderd gives the token of build 1 to the
claim build.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentd import log
from agentd.claims.claim import Claim
from agentd.claims.events import ClaimEvent
from agentd.claims.ledger_file import LEDGER_NAME, LedgerFile, load
from agentd.claims.ledger_state import LedgerState
from agentd.claims.lifecycle import ClaimState, ClaimStep, HookStep
from agentd.clock import Clock, rfc3339
from agentd.errors import StateError
from agentd.proc import ProcessIdentity

MAX_CLAIMS: Final = 1000
"""Claims with their history. A prebuild is claimed once: a server that claims it for so many owners is faulty or hostile."""
COMPACTED_CLAIMS: Final = 100
"""Claims that are removed at once when the ledger has `MAX_CLAIMS`. Only their ids stay."""
MAX_SETTLED_IDS: Final = 20_000


class LedgerFullError(StateError):
    """The ledger has `MAX_CLAIMS` claims, none of which can be removed, or `MAX_SETTLED_IDS` ids: it admits no more."""


class Admission(NamedTuple):
    """The result of `admit`. An event of a known claim is a replay; the claim may still have hooks to run."""

    claim: Claim
    is_replay: bool


def fingerprint(token: str) -> str:
    """One-way fingerprint of an agent token: 64 bits of SHA-256 with a prefix of agentd."""
    return hashlib.sha256(b"agentd claim ledger\0" + token.encode()).hexdigest()[:16]


def claim_id_of(event: ClaimEvent, *, token_fingerprint: str | None) -> str:
    """The id of a claim, 12 digits: a hash of workspace (or token fingerprint), owner and reason."""
    named = "\n".join(
        (event.workspace_id or f"token {token_fingerprint}", event.owner_id or "", event.reason)
    )
    return hashlib.sha256(named.encode()).hexdigest()[:12]


class Ledger:
    """The durable claims of one state directory. The caller holds the directory's lock.

    `workspace_id` is the configured one, if any. The owner of the ledger sets `token_fingerprint` as soon as
    it has a token and whenever the token changes.
    """

    def __init__(
        self, directory: Path, *, workspace_id: str | None = None, clock: Clock | None = None
    ) -> None:
        """Open or create the ledger. Raises `StateError` if it is unreadable, `NewerLedgerError`."""
        self._file = LedgerFile(directory / LEDGER_NAME, wall=(clock or Clock()).wall)
        self._workspace_id = workspace_id.lower() if workspace_id else None
        self.token_fingerprint: str | None = None
        self._admitting = threading.Lock()

    @staticmethod
    def read(directory: Path) -> LedgerState:
        """Read the ledger of `directory` without its lock and without a change. Raises as the constructor."""
        return load(directory / LEDGER_NAME, now=0.0)[0]

    @property
    def workspace_id(self) -> str | None:
        """The configured workspace id, else that of the newest claim with the present token."""
        claims = (c for c in self._newest_first() if c.token_fingerprint == self.token_fingerprint)
        return self._workspace_id or next((c.workspace_id for c in claims if c.workspace_id), None)

    @property
    def damage(self) -> str:
        """What damaged the ledger, "" if nothing did or no claim is held for it any more."""
        return self._file.state.damage

    @property
    def unclaimed_workspace(self) -> str:
        """The workspace last seen as an unclaimed prebuild, or ""."""
        return self._file.state.unclaimed_workspace

    @property
    def unclaimed_agent(self) -> str:
        """The name of that workspace's agent, "" if it is not recorded."""
        return self._file.state.unclaimed_agent

    def note_unclaimed(self, workspace_id: str, agent_name: str) -> None:
        """Record that this workspace, with this agent, is an unclaimed prebuild. Raises `LedgerWriteError`."""
        self._file.append("waiting", workspace=workspace_id, agent=agent_name)

    def all_claims(self) -> tuple[Claim, ...]:
        """All claims in order of admission, those of other workspaces included."""
        return tuple(self._file.state.claims.values())

    def claim(self, claim_id: str) -> Claim:
        """Raises `UnknownClaimError`."""
        return self._file.state.claim(claim_id)

    def is_own(self, claim: Claim) -> bool:
        """True if the claim belongs to this workspace. False can mean that this is not known yet."""
        return self._is_of_workspace(claim, self._workspace_id)

    def unfinished(self) -> tuple[Claim, ...]:
        """The claims of this workspace that are admitted and not final: a start has to resume them."""
        return tuple(claim for claim in self.all_claims() if not claim.is_final and self.is_own(claim))

    def latest(self) -> Claim | None:
        """The newest claim of this workspace."""
        return next((claim for claim in self._newest_first() if self.is_own(claim)), None)

    def find(self, event: ClaimEvent) -> Claim | None:
        """The newest claim of `event`, None without one. A field that one of them lacks matches any value."""
        event = self._completed(event)
        claims = [claim for claim in self._newest_first() if self._matches(claim, event)]
        exact = next((claim for claim in claims if claim.owner_id == event.owner_id), None)
        return exact or self._settled(event) or (claims[0] if claims else None)

    def admit(self, event: ClaimEvent) -> Admission:
        """Record the claim of `event`, or the new facts of a replay. Idempotent.

        Raises `LedgerWriteError` or `LedgerFullError`; the caller must not act on the event then.
        """
        with self._admitting:
            event = self._completed(event)
            known = self.find(event)
            if known is not None:
                facts = self.new_facts(event, known)
                return Admission(self._append("bind", known.id, **facts) if facts else known, is_replay=True)
            if len(self._file.state.claims) >= MAX_CLAIMS:
                self._remove_settled()
            claim = self._append(
                "admit",
                claim_id_of(event, token_fingerprint=self.token_fingerprint or ""),
                workspace=event.workspace_id,
                owner=event.owner_id,
                reason=event.reason,
                token=self.token_fingerprint or "",
                held=self.damage,
                **({"inferred": True} if event.inferred else {}),
            )
            return Admission(claim, is_replay=False)

    def new_facts(self, event: ClaimEvent, claim: Claim) -> dict[str, str | None]:
        """The `bind` record for a replay that adds an owner, a workspace or the present token, else {}."""
        recorded = (claim.workspace_id, claim.owner_id, claim.token_fingerprint)
        facts = {
            "workspace": claim.workspace_id or self._completed(event).workspace_id,
            "owner": claim.owner_id or event.owner_id,
            "token": self.token_fingerprint or "",
        }
        return {} if tuple(facts.values()) == recorded else facts

    def plan_hooks(self, claim_id: str, hooks: Sequence[str]) -> Claim:
        """Record the hooks to run. A planned hook outside `hooks` is skipped, unless it has succeeded."""
        return self._append("act", claim_id, hooks=list(hooks))

    def start(self, claim_id: str, hook: str, run_id: str) -> Claim:
        """Record that the process of `hook` is about to be created, with `run_id` in its environment."""
        return self._append("start", claim_id, hook=hook, run=run_id)

    def spawned(self, claim_id: str, hook: str, run_id: str, process: ProcessIdentity) -> Claim:
        """Record the process, for a later agentd: the hook may remove the run id from its environment."""
        return self._append("spawned", claim_id, hook=hook, run=run_id, **process._asdict())

    def end(
        self,
        claim_id: str,
        hook: str,
        run_id: str,
        step: HookStep,
        *,
        exit_code: int | None,
        why: str,
        tail: str,
    ) -> Claim:
        """Record the end of the run: `step` is succeed, fail or interrupt."""
        fields = {"hook": hook, "run": run_id, "step": step, "exit": exit_code, "why": why, "tail": tail}
        return self._append("end", claim_id, **fields)

    def settle(self, claim_id: str, step: ClaimStep, why: str = "") -> Claim:
        """Record the end of the claim: `step` is finish, fail or hold."""
        return self._append("settle", claim_id, step=step, why=why)

    def retry(self, claim_id: str) -> Claim:
        """Admit a held or failed claim again; it continues with its first hook that has not succeeded.

        Raises `UnknownClaimError`, `IllegalClaimStepError` for any other state, and `LedgerWriteError`.
        """
        claim = self._append("retry", claim_id)
        self._clear_damage_when_handled()
        return claim

    def forget(self, claim_id: str) -> None:
        """Remove a claim of which no hook runs. If its event comes again, all its hooks run. Raises as `retry`."""
        self._file.append("forget", claim=claim_id)
        self._clear_damage_when_handled()

    def close(self) -> None:
        self._file.close()

    def _remove_settled(self) -> None:
        """Remove final claims, the oldest first and the failed and held ones last, and keep their ids.

        coderd repeats the claim of the present owner only, which is the newest one here and stays. The ids of all removed
        claims stay too, so that no server can have their hooks run again. A claim without an owner or a workspace matches
        several events, which an id cannot do, so it is not removed.
        """
        latest = self.latest()
        known = [c for c in self.all_claims() if c.workspace_id and c.owner_id and c is not latest]
        final = sorted(
            (c for c in known if c.is_final), key=lambda c: (c.state is not ClaimState.DONE, c.changed_at)
        )
        removed = final[:COMPACTED_CLAIMS]
        events = [ClaimEvent(c.workspace_id, c.owner_id, c.reason) for c in removed]
        # The id of a claim that learnt its owner later is not the one that its event has now.
        ids = {c.id for c in removed} | {claim_id_of(event, token_fingerprint=None) for event in events}
        if not removed or len(self._file.state.settled_ids) + len(ids) > MAX_SETTLED_IDS:
            raise LedgerFullError(
                f"the claim ledger has {len(self.all_claims())} claims, the maximum",
                hint="see `agentd claims list`; remove some with `agentd claims forget`",
            )
        self._file.append("compact", claims=[c.id for c in removed], ids=sorted(ids))
        unsettled = [c.id for c in removed if c.state is not ClaimState.DONE]
        log.get("ledger").warning("ledger.compacted", claims=len(removed), not_done=unsettled or None)

    def _settled(self, event: ClaimEvent) -> Claim | None:
        """A claim that stands for a removed one, None if the event is not a replay of one."""
        claim_id = claim_id_of(event, token_fingerprint=self.token_fingerprint)
        if claim_id not in self._file.state.settled_ids:
            return None
        token = self.token_fingerprint or ""
        return Claim(
            claim_id, event.workspace_id, event.owner_id, event.reason, token, ClaimState.DONE, 0.0, 0.0
        )

    def _append(self, kind: str, claim_id: str, **fields: Any) -> Claim:  # noqa: ANN401 - JSON of any shape
        return self._file.append(kind, claim=claim_id, **fields).claim(claim_id)

    def _clear_damage_when_handled(self) -> None:
        """Record that the operator has handled the damage, once no claim is held for it."""
        claims = self.all_claims()
        if self.damage and not any(c.state is ClaimState.HELD and c.why == self.damage for c in claims):
            self._file.append("trusted")

    def _completed(self, event: ClaimEvent) -> ClaimEvent:
        return event._replace(workspace_id=event.workspace_id or self.workspace_id)

    def _matches(self, claim: Claim, event: ClaimEvent) -> bool:
        if claim.id == claim_id_of(event, token_fingerprint=self.token_fingerprint):
            return True
        same_workspace = self._is_of_workspace(claim, event.workspace_id)
        same_owner = None in (claim.owner_id, event.owner_id) or claim.owner_id == event.owner_id
        return claim.reason == event.reason and same_workspace and same_owner

    def _is_of_workspace(self, claim: Claim, workspace_id: str | None) -> bool:
        if claim.workspace_id is None or workspace_id is None:
            return claim.token_fingerprint == self.token_fingerprint
        return claim.workspace_id == workspace_id

    def _newest_first(self) -> Iterator[Claim]:
        return reversed(self.all_claims())


def claim_as_json(claim: Claim, *, tails: bool = False) -> dict[str, Any]:
    """For `--json` and the local API: times in RFC 3339, no fingerprint, hook output only with `tails`."""
    return {
        "id": claim.id,
        "state": claim.state.value,
        "why": claim.why,
        "workspace_id": claim.workspace_id,
        "owner_id": claim.owner_id,
        "reason": claim.reason,
        "inferred": claim.inferred,
        "admitted_at": rfc3339(claim.admitted_at),
        "changed_at": rfc3339(claim.changed_at),
        "hooks": [
            {
                "name": hook.name,
                "state": hook.state.value,
                "attempt": hook.attempt,
                "failures": hook.failures,
                "interruptions": hook.interruptions,
                "exit_code": hook.exit_code,
                "why": hook.why,
                "started_at": None if hook.started_at is None else rfc3339(hook.started_at),
                "ended_at": None if hook.ended_at is None else rfc3339(hook.ended_at),
                **({"tail": hook.tail} if tails else {}),
            }
            for hook in claim.hooks
        ],
    }
