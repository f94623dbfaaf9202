"""What the ledger says: claims and their hooks as the fold of the ledger's records. Pure.

`fold(book, record)` gives the next book or raises, and never changes the book it was given. The ledger calls it before
it writes a record and again for every record it reads, so a file that was edited or damaged cannot smuggle a claim
past the tables in `lifecycle`.

Records are JSON objects with `kind` and `at` (Unix seconds):

    admit   claim workspace owner reason token held     a claim is known; `held` is why it waits for a person, or ""
    bind    claim workspace owner token                 an event said more about a claim that is already known
    act     claim hooks                                 these hooks are to run, in name order
    start   claim hook run                              the next thing that happens is the hook's process
    spawned claim hook run pid ticks boot               there it is
    end     claim hook run step exit why tail           succeed, fail or interrupt
    settle  claim step why                              finish, fail or hold
    retry   claim                                       a person wants it tried again
    forget  claim                                       a person wants it gone
    claim   (all fields of a claim)                     written by compaction in place of its history
    waiting workspace                                   this workspace was seen to belong to nobody yet
    damage  why / trusted                               records were lost / a person has dealt with every claim held for it
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from agentd.claims.lifecycle import (
    CLAIM_TRANSITIONS,
    FINAL_CLAIM_STATES,
    FINISHED_HOOK_STATES,
    HOOK_TRANSITIONS,
    ClaimState,
    ClaimStep,
    HookState,
    HookStep,
    IllegalClaimStepError,
    advance,
)
from agentd.errors import AgentdError
from agentd.proc import ProcessIdentity

Record = Mapping[str, Any]


class UnknownClaimError(AgentdError):
    """No claim has this id."""


class Hook(NamedTuple):
    """One hook of one claim.

    `attempt` counts starts for ever (the hook is told), `failures` and `interruptions` count since the claim was
    admitted or last retried. `run_id` and `process` name the last start; `exit_code` is negative for a signal.
    """

    name: str
    state: HookState = HookState.PENDING
    attempt: int = 0
    failures: int = 0
    interruptions: int = 0
    run_id: str = ""
    process: ProcessIdentity | None = None
    exit_code: int | None = None
    why: str = ""
    tail: str = ""
    started_at: float | None = None
    ended_at: float | None = None


class Claim(NamedTuple):
    """One claim. `token` is a one-way fingerprint of the agent token it came with; `why` explains `held` and `failed`."""

    id: str
    workspace_id: str | None
    owner_id: str | None
    reason: str
    token: str
    state: ClaimState
    admitted_at: float
    changed_at: float
    why: str = ""
    hooks: tuple[Hook, ...] = ()

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_CLAIM_STATES

    @property
    def started_hook(self) -> Hook | None:
        """The hook whose process may exist."""
        return next((hook for hook in self.hooks if hook.state is HookState.STARTED), None)

    @property
    def next_hook(self) -> Hook | None:
        """The first hook, in name order, that has neither succeeded nor been skipped."""
        return next((hook for hook in self.hooks if hook.state not in FINISHED_HOOK_STATES), None)

    def hook(self, name: str) -> Hook:
        """Raises `IllegalClaimStepError` for a hook that was never planned."""
        for hook in self.hooks:
            if hook.name == name:
                return hook
        raise IllegalClaimStepError(f"claim {self.id} has no hook {name!r}")


class LedgerState(NamedTuple):
    """All claims by id, in order of admission.

    `damage` says what happened when records were lost, else ""; `waiting` is the id of the workspace last seen as an
    unclaimed prebuild, else "".
    """

    claims: Mapping[str, Claim] = MappingProxyType({})
    damage: str = ""
    waiting: str = ""

    def claim(self, claim_id: str) -> Claim:
        """Raises `UnknownClaimError`."""
        try:
            return self.claims[claim_id]
        except KeyError:
            raise UnknownClaimError(
                f"no claim {claim_id!r} in the ledger", hint="see `agentd claims list`"
            ) from None

    def having(self, claim: Claim) -> "LedgerState":
        return self._replace(claims={**self.claims, claim.id: claim})

    def without(self, claim_id: str) -> "LedgerState":
        return self._replace(claims={k: v for k, v in self.claims.items() if k != claim_id})


def fold(book: LedgerState, record: Record) -> LedgerState:
    """The book after `record`.

    Raises `IllegalClaimStepError` for a step the tables do not know, `UnknownClaimError`, and `KeyError`, `TypeError` or `ValueError`
    for a record that is not of its kind's shape.
    """
    kind = record["kind"]
    match kind:
        case "admit":
            return book.having(_admitted(book, record))
        case "claim":
            return book.having(_unpacked(book, record))
        case "forget":
            return _forgotten(book, record)
        case "waiting":
            return book._replace(waiting=str(record["workspace"]))
        case "damage":
            return book._replace(damage=str(record["why"]))
        case "trusted":
            return book._replace(damage="")
        case _ if kind in _CLAIM_RECORDS:
            claim = _CLAIM_RECORDS[kind](book.claim(record["claim"]), record)
            return book.having(claim._replace(changed_at=float(record["at"])))
        case _:
            raise IllegalClaimStepError(f"no such record: {kind!r}")


def pack(claim: Claim) -> dict[str, Any]:
    """The `claim` record that stands for everything known of `claim`."""
    hooks = [{**hook._asdict(), "process": hook.process and hook.process._asdict()} for hook in claim.hooks]
    return {"kind": "claim", "at": claim.changed_at, **claim._asdict(), "hooks": hooks}


def _admitted(book: LedgerState, record: Record) -> Claim:
    if record["claim"] in book.claims:
        raise IllegalClaimStepError(f"claim {record['claim']} is admitted already")
    held = str(record["held"])
    return Claim(
        id=str(record["claim"]),
        workspace_id=_text_or_none(record["workspace"]),
        owner_id=_text_or_none(record["owner"]),
        reason=str(record["reason"]),
        token=str(record["token"]),
        state=ClaimState.HELD if held else ClaimState.ADMITTED,
        why=held,
        admitted_at=float(record["at"]),
        changed_at=float(record["at"]),
    )


def _unpacked(book: LedgerState, record: Record) -> Claim:
    if record["id"] in book.claims:
        raise IllegalClaimStepError(f"claim {record['id']} is admitted already")
    hooks = tuple(
        Hook(**{**hook, "state": HookState(hook["state"]), "process": _process(hook["process"])})
        for hook in record["hooks"]
    )
    fields = {name: record[name] for name in Claim._fields}
    return Claim(**{**fields, "state": ClaimState(record["state"]), "hooks": hooks})


def _bound(claim: Claim, record: Record) -> Claim:
    for known, said in ((claim.workspace_id, record["workspace"]), (claim.owner_id, record["owner"])):
        if known is not None and known != said:
            raise IllegalClaimStepError(f"claim {claim.id} is of {known}, not of {said}")
    return claim._replace(
        workspace_id=record["workspace"], owner_id=record["owner"], token=str(record["token"])
    )


def _acting(claim: Claim, record: Record) -> Claim:
    state = _claim_step(claim, ClaimStep.PLAN_HOOKS)
    if claim.started_hook is not None:
        raise IllegalClaimStepError(f"hook {claim.started_hook.name!r} of claim {claim.id} has not ended")
    names = [str(name) for name in record["hooks"]]
    known = {hook.name: hook for hook in claim.hooks}
    planned = [_hook_step(claim, known.get(name, Hook(name)), HookStep.PLAN) for name in names]
    gone = [hook for name, hook in known.items() if name not in names]
    dropped = [
        hook if hook.state is HookState.SUCCEEDED else _hook_step(claim, hook, HookStep.SKIP) for hook in gone
    ]
    hooks = tuple(sorted(planned + dropped, key=lambda hook: hook.name))
    return claim._replace(state=state, hooks=hooks, why="")


def _started(claim: Claim, record: Record) -> Claim:
    hook = claim.hook(record["hook"])
    if claim.state is not ClaimState.ACTING:
        raise IllegalClaimStepError(f"claim {claim.id} is {claim.state}: it cannot start a hook")
    started = _hook_step(claim, hook, HookStep.START)
    if claim.next_hook is not hook:
        raise IllegalClaimStepError(f"hook {hook.name!r} of claim {claim.id} is not the next one")
    return _with(
        claim,
        started._replace(
            attempt=hook.attempt + 1,
            run_id=str(record["run"]),
            process=None,
            exit_code=None,
            why="",
            tail="",
            started_at=float(record["at"]),
            ended_at=None,
        ),
    )


def _spawned(claim: Claim, record: Record) -> Claim:
    hook = _running(claim, record)
    process = ProcessIdentity(int(record["pid"]), int(record["ticks"]), str(record["boot"]))
    return _with(claim, hook._replace(process=process))


def _ended(claim: Claim, record: Record) -> Claim:
    hook = _running(claim, record)
    step = HookStep(record["step"])
    return _with(
        claim,
        _hook_step(claim, hook, step)._replace(
            failures=hook.failures + (step is HookStep.FAIL),
            interruptions=hook.interruptions + (step is HookStep.INTERRUPT),
            exit_code=record["exit"],
            why=str(record["why"]),
            tail=str(record["tail"]),
            ended_at=float(record["at"]),
        ),
    )


def _settled(claim: Claim, record: Record) -> Claim:
    step = ClaimStep(record["step"])
    state = _claim_step(claim, step)
    if step is ClaimStep.FINISH and claim.next_hook is not None:
        raise IllegalClaimStepError(
            f"claim {claim.id} cannot finish: hook {claim.next_hook.name!r} has not succeeded"
        )
    if step is ClaimStep.FAIL and claim.started_hook is not None:
        raise IllegalClaimStepError(
            f"claim {claim.id} cannot fail: hook {claim.started_hook.name!r} has not ended"
        )
    return claim._replace(state=state, why=str(record["why"]))


def _retried(claim: Claim, _record: Record) -> Claim:
    state = _claim_step(claim, ClaimStep.RETRY)
    hooks = tuple(hook._replace(failures=0, interruptions=0) for hook in claim.hooks)
    return claim._replace(state=state, why="", hooks=hooks)


def _forgotten(book: LedgerState, record: Record) -> LedgerState:
    claim = book.claim(record["claim"])
    if claim.started_hook is not None:
        raise IllegalClaimStepError(
            f"claim {claim.id} cannot be forgotten: hook {claim.started_hook.name!r} may still run",
            hint="start agentd, which ends it, or wait for its end",
        )
    return book.without(claim.id)


_CLAIM_RECORDS: Mapping[str, Callable[[Claim, Record], Claim]] = {
    "bind": _bound,
    "act": _acting,
    "start": _started,
    "spawned": _spawned,
    "end": _ended,
    "settle": _settled,
    "retry": _retried,
}


def _running(claim: Claim, record: Record) -> Hook:
    hook = claim.hook(record["hook"])
    if hook.state is not HookState.STARTED or hook.run_id != record["run"]:
        raise IllegalClaimStepError(f"hook {hook.name!r} of claim {claim.id} is not in run {record['run']!r}")
    return hook


def _claim_step(claim: Claim, step: ClaimStep) -> ClaimState:
    return advance(CLAIM_TRANSITIONS, claim.state, step, of=f"claim {claim.id}")


def _hook_step(claim: Claim, hook: Hook, step: HookStep) -> Hook:
    what = f"hook {hook.name!r} of claim {claim.id}"
    return hook._replace(state=advance(HOOK_TRANSITIONS, hook.state, step, of=what))


def _with(claim: Claim, hook: Hook) -> Claim:
    hooks = tuple(hook if known.name == hook.name else known for known in claim.hooks)
    return claim._replace(hooks=hooks)


def _process(packed: Mapping[str, Any] | None) -> ProcessIdentity | None:
    return None if packed is None else ProcessIdentity(**packed)


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)
