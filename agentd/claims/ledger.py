"""The claims this workspace has seen, what became of each, and the promise that none acts twice.

Every verb is one durable record: when it returns, the record is on disk; when it raises, nothing has changed. The
verbs block for one sync (50 µs, 20 ms at worst), so a caller on an event loop runs them in a thread.

A ledger knows whose it is. Records carry the workspace's id and a one-way fingerprint of the agent token, because a
state directory may be baked into an image or cloned with a volume: a foreign claim neither swallows a real one nor is
taken up again here. The same token keeps working across a claim (coderd hands build 1's token to the claim build), so
the fingerprint stands for the workspace where no id is configured.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agentd.claims.events import ClaimEvent
from agentd.claims.ledger_file import NAME, Journal, LedgerWriteError, load
from agentd.claims.ledger_state import Claim, Hook, LedgerState, UnknownClaimError
from agentd.claims.lifecycle import ClaimState, ClaimStep, HookStep, IllegalClaimStepError
from agentd.clock import Clock, rfc3339
from agentd.errors import StateError
from agentd.proc import ProcessIdentity

__all__ = [
    "Admitted",
    "Claim",
    "Hook",
    "IllegalClaimStepError",
    "Ledger",
    "LedgerFullError",
    "LedgerState",
    "LedgerWriteError",
    "Replay",
    "UnknownClaimError",
    "claim_id",
    "describe",
    "fingerprint",
]  # fmt: skip

# A prebuild is claimed once; a server that names a thousand owners is not one to run hooks for.
MAX_CLAIMS = 1000


class LedgerFullError(StateError):
    """The ledger holds `MAX_CLAIMS` claims and takes no more."""


class Admitted(NamedTuple):
    """A claim the ledger had not seen."""

    claim: Claim


class Replay(NamedTuple):
    """An event of a claim that is known. Whether there is still something to do for it, the claim says."""

    claim: Claim


def fingerprint(token: str) -> str:
    """One-way name of an agent token: 64 bits of SHA-256 under our own prefix. Tells two tokens apart, gives none away."""
    return hashlib.sha256(b"agentd claim ledger\0" + token.encode()).hexdigest()[:16]


def claim_id(event: ClaimEvent, *, token: str | None) -> str:
    """The claim's stable short name (12 hex digits), from what the event names; the token where it names no workspace."""
    named = "\n".join((event.workspace_id or f"token {token}", event.owner_id or "", event.reason))
    return hashlib.sha256(named.encode()).hexdigest()[:12]


class Ledger:
    """The durable claims of one state directory, whose lock the caller holds.

    `workspace_id` is the configured one, if any; `token` is set to the present token's `fingerprint` as soon as there
    is a token, and whenever it changes.
    """

    def __init__(
        self, directory: Path, *, workspace_id: str | None = None, clock: Clock | None = None
    ) -> None:
        """Open or begin the ledger. Raises `StateError` when it cannot be read, `NewerLedgerError` when it is not ours to read."""
        self._journal = Journal(directory / NAME, wall=(clock or Clock()).wall)
        self._workspace_id = workspace_id.lower() if workspace_id else None
        self.token_fingerprint: str | None = None
        self._admitting = threading.Lock()

    @staticmethod
    def read(directory: Path) -> LedgerState:
        """What the ledger of `directory` says, without lock and without changing anything. Raises as the constructor."""
        return load(directory / NAME, now=0.0)[0]

    @property
    def workspace_id(self) -> str | None:
        """This workspace: as configured, else as the newest claim that came with our token names it."""
        if self._workspace_id is not None:
            return self._workspace_id
        known = (
            claim.workspace_id for claim in self._newest_first() if claim.token == self.token_fingerprint
        )
        return next((workspace for workspace in known if workspace is not None), None)

    @property
    def damage(self) -> str:
        """What happened to the ledger that nobody has looked at yet, or ""."""
        return self._journal.book.damage

    @property
    def unclaimed_workspace(self) -> str:
        """The workspace last seen as an unclaimed prebuild, or ""."""
        return self._journal.book.waiting

    def note_unclaimed(self, workspace_id: str) -> None:
        """This workspace belongs to nobody yet. Raises `LedgerWriteError`."""
        self._journal.record("waiting", workspace=workspace_id)

    def all_claims(self) -> tuple[Claim, ...]:
        """All claims in order of admission, those of other workspaces included."""
        return tuple(self._journal.book.claims.values())

    def claim(self, claim_id: str) -> Claim:
        """Raises `UnknownClaimError`."""
        return self._journal.book.claim(claim_id)

    def is_ours(self, claim: Claim) -> bool:
        """Whether the claim is known to be this workspace's. False may only mean that nobody has said so yet."""
        if self._workspace_id is not None and claim.workspace_id is not None:
            return claim.workspace_id == self._workspace_id
        return claim.token == self.token_fingerprint

    def unfinished(self) -> tuple[Claim, ...]:
        """Our claims that were admitted and not settled: what a start has to take up again."""
        return tuple(claim for claim in self.all_claims() if not claim.is_final and self.is_ours(claim))

    def latest(self) -> Claim | None:
        """Our newest claim."""
        return next((claim for claim in self._newest_first() if self.is_ours(claim)), None)

    def find(self, event: ClaimEvent) -> Claim | None:
        """The claim `event` is a replay of, newest first. What either side does not name, matches."""
        event = self._completed(event)
        claims = [claim for claim in self._newest_first() if self._matches(claim, event)]
        exact = (claim for claim in claims if claim.owner_id == event.owner_id)
        return next(exact, claims[0] if claims else None)

    def admit(self, event: ClaimEvent) -> Admitted | Replay:
        """Make the claim of `event` known, once.

        A replay that says more than is known (the owner, the workspace, our token for an unfinished claim) is recorded
        as such. Raises `LedgerWriteError` or `LedgerFullError`; nothing may be done for the event then.
        """
        with self._admitting:
            return self._admit_or_bind(self._completed(event), self.token_fingerprint or "")

    def plan_hooks(self, claim_id: str, hooks: Sequence[str]) -> Claim:
        """These hooks are to run; a planned one that is not among them is skipped unless it has succeeded."""
        return self._record("act", claim_id, hooks=list(hooks))

    def start(self, claim_id: str, hook: str, run_id: str) -> Claim:
        """The next thing to happen is the process of `hook`, which carries `run_id` in its environment."""
        return self._record("start", claim_id, hook=hook, run=run_id)

    def spawned(self, claim_id: str, hook: str, run_id: str, process: ProcessIdentity) -> Claim:
        """The process is there; a later agentd finds it by this even when it has washed its environment."""
        where = {"pid": process.pid, "ticks": process.ticks, "boot": process.boot}
        return self._record("spawned", claim_id, hook=hook, run=run_id, **where)

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
        """The run has ended: `succeed`, `fail` or `interrupt`."""
        fields = {"hook": hook, "run": run_id, "step": step, "exit": exit_code, "why": why, "tail": tail}
        return self._record("end", claim_id, **fields)

    def settle(self, claim_id: str, step: ClaimStep, why: str = "") -> Claim:
        """`finish`, `fail` or `hold` the claim."""
        return self._record("settle", claim_id, step=step, why=why)

    def retry(self, claim_id: str) -> Claim:
        """Let a held or failed claim act again, from its first hook that has not succeeded. Raises `IllegalClaimStepError` else."""
        claim = self._record("retry", claim_id)
        self._trust_again()
        return claim

    def forget(self, claim_id: str) -> None:
        """Drop a claim with all that is known of it: if its event comes again, it acts again.

        Raises `IllegalClaimStepError` while one of its hooks may run.
        """
        self._journal.record("forget", claim=claim_id)
        self._trust_again()

    def as_json(self) -> list[dict[str, Any]]:
        """Every claim, oldest first, without output."""
        return [describe(claim) for claim in self.all_claims()]

    def close(self) -> None:
        self._journal.close()

    def _admit_or_bind(self, event: ClaimEvent, token: str) -> Admitted | Replay:
        known = self.find(event)
        if known is None:
            return Admitted(self._admit(event, token))
        said = {
            "workspace": known.workspace_id or event.workspace_id,
            "owner": known.owner_id or event.owner_id,
            "token": token,
        }
        if said != {"workspace": known.workspace_id, "owner": known.owner_id, "token": known.token}:
            known = self._record("bind", known.id, **said)
        return Replay(known)

    def _admit(self, event: ClaimEvent, token: str) -> Claim:
        if len(self._journal.book.claims) >= MAX_CLAIMS:
            raise LedgerFullError(
                f"the claim ledger holds {MAX_CLAIMS} claims", hint="see `agentd claims list`, forget some"
            )
        return self._record(
            "admit",
            claim_id(event, token=token),
            workspace=event.workspace_id,
            owner=event.owner_id,
            reason=event.reason,
            token=token,
            held=self.damage,
        )

    def _record(self, kind: str, claim_id: str, **fields: Any) -> Claim:  # noqa: ANN401 - as `Journal.record`
        return self._journal.record(kind, claim=claim_id, **fields).claim(claim_id)

    def _trust_again(self) -> None:
        """Once nothing is held for the damage any more, a person has dealt with it."""
        held = (
            claim
            for claim in self.all_claims()
            if claim.state is ClaimState.HELD and claim.why == self.damage
        )
        if self.damage and next(held, None) is None:
            self._journal.record("trusted")

    def _completed(self, event: ClaimEvent) -> ClaimEvent:
        return ClaimEvent(event.workspace_id or self.workspace_id, event.owner_id, event.reason)

    def _matches(self, claim: Claim, event: ClaimEvent) -> bool:
        if claim.id == claim_id(event, token=self.token_fingerprint):
            return True
        if claim.workspace_id is not None and event.workspace_id is not None:
            same_workspace = claim.workspace_id == event.workspace_id
        else:
            same_workspace = claim.token == self.token_fingerprint
        same_owner = None in (claim.owner_id, event.owner_id) or claim.owner_id == event.owner_id
        return claim.reason == event.reason and same_workspace and same_owner

    def _newest_first(self) -> Iterator[Claim]:
        return reversed(self.all_claims())


def describe(claim: Claim, *, tails: bool = False) -> dict[str, Any]:
    """One claim for `--json` and the local API: times RFC 3339, the token's fingerprint left out; output if `tails`."""
    return {
        "id": claim.id,
        "state": claim.state.value,
        "why": claim.why,
        "workspace_id": claim.workspace_id,
        "owner_id": claim.owner_id,
        "reason": claim.reason,
        "admitted_at": rfc3339(claim.admitted_at),
        "changed_at": rfc3339(claim.changed_at),
        "hooks": [_describe_hook(hook, tails=tails) for hook in claim.hooks],
    }


def _describe_hook(hook: Hook, *, tails: bool) -> dict[str, Any]:
    return {
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
