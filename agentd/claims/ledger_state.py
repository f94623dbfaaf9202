"""The content of the claim ledger: all claims, computed by replaying the ledger's records. Pure.

`apply_record(state, record)` returns the next state or raises; it never changes the state that it was given.
The ledger calls it before it writes a record and again for each record that it reads. Therefore an edited or
damaged file cannot bring in a claim that violates the tables of `lifecycle`.

Records are JSON objects with `kind` and `at` (Unix seconds):

    admit   claim workspace owner reason token held     a new claim, held for the reason `held` unless ""; with
            inferred (only if true)                     `inferred`, coderd sent no event for it
    bind    claim workspace owner token                 an event added facts to a known claim
    act     claim hooks                                 the hooks to run, in name order (step `plan_hooks`)
    start   claim hook run                              the process of this hook is about to be created
    spawned claim hook run pid ticks boot               the process exists
    end     claim hook run step exit why tail           the run ended: succeed, fail or interrupt
    settle  claim step why                              the claim ended: finish, fail or hold
    retry   claim                                       an operator asked for another try
    forget  claim                                       an operator removed the claim
    compact claims ids                                  these final claims were removed; their ids stay, as replays
    claim   (all fields of a claim)                     written by compaction in place of the claim's history
    waiting workspace agent                             the workspace was seen as an unclaimed prebuild; `agent` is
                                                        the name of its agent, absent in older records
    damage  why / trusted                               records were lost / no claim is held for it any more
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from agentd.claims.claim import Claim, Hook, claim_from_record, unix_time
from agentd.claims.events import PREBUILD_CLAIMED
from agentd.claims.lifecycle import (
    CLAIM_TRANSITIONS,
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


# What `apply_record` raises for a record that is malformed or not valid after the records before it.
INVALID_RECORD: Final = (AgentdError, KeyError, TypeError, ValueError, AttributeError)


class LedgerState(NamedTuple):
    """All claims by id, in order of admission. `damage` describes the loss of records, "" if there was none.

    `unclaimed_workspace` is the id of the workspace last seen as an unclaimed prebuild, else ""; `unclaimed_agent` is
    the name of its agent, "" if it was not recorded. `settled_ids` are the ids of claims that were removed at the
    limit: an event with such an id is a replay.
    """

    claims: Mapping[str, Claim] = MappingProxyType({})
    damage: str = ""
    unclaimed_workspace: str = ""
    settled_ids: frozenset[str] = frozenset()
    unclaimed_agent: str = ""

    def claim(self, claim_id: str) -> Claim:
        """Raises `UnknownClaimError`."""
        try:
            return self.claims[claim_id]
        except KeyError:
            raise UnknownClaimError(
                f"no claim {claim_id!r} in the ledger", hint="see `agentd claims list`"
            ) from None

    def with_claim(self, claim: Claim) -> "LedgerState":
        return self._replace(claims={**self.claims, claim.id: claim})

    def to_records(self, at: float) -> Iterable[dict[str, Any]]:
        """The fewest records that give this state, for compaction. `at` is their time, Unix seconds."""
        if self.damage:
            yield {"kind": "damage", "at": at, "why": self.damage}
        if self.unclaimed_workspace:
            agent = {"agent": self.unclaimed_agent} if self.unclaimed_agent else {}
            yield {"kind": "waiting", "at": at, "workspace": self.unclaimed_workspace, **agent}
        if self.settled_ids:
            yield {"kind": "compact", "at": at, "claims": [], "ids": sorted(self.settled_ids)}
        for claim in self.claims.values():
            yield claim.to_record()


def apply_record(state: LedgerState, record: Record) -> LedgerState:
    """The state after `record`.

    Raises `IllegalClaimStepError` for a step that the tables do not have, `UnknownClaimError`, and
    `KeyError`, `TypeError` or `ValueError` for a malformed record.
    """
    kind = record["kind"]
    match kind:
        case "admit":
            return _add(state, _admitted(record))
        case "claim":
            return _add(state, claim_from_record(record))
        case "forget":
            return _forget(state, record)
        case "compact":
            return _compact(state, record)
        case "waiting":
            agent = str(record.get("agent", ""))
            return state._replace(unclaimed_workspace=str(record["workspace"]), unclaimed_agent=agent)
        case "damage":
            return state._replace(damage=str(record["why"]))
        case "trusted":
            return state._replace(damage="")
        case _ if kind in _CLAIM_RECORDS:
            claim = _CLAIM_RECORDS[kind](state.claim(record["claim"]), record)
            return state.with_claim(claim._replace(changed_at=_time(record)))
        case _:
            raise IllegalClaimStepError(f"unknown kind of record: {kind!r}")


def recover(records: Iterable[Record], *, why: str, at: float) -> LedgerState:
    """The state of a damaged ledger, from its readable `records`. Never raises.

    A lost record may have been a success. Therefore every claim that is not provably done is held for the
    reason `why` until an operator retries or forgets it. A recorded success stays a success, also if the
    records before it are lost: that hook never runs again.
    """
    state, done, succeeded, settled = LedgerState(), set[str](), dict[str, set[str]](), set[str]()
    for record in records:
        claim_id = str(record.get("claim"))
        match record:
            case {"kind": "settle", "step": ClaimStep.FINISH}:
                done.add(claim_id)
            case {"kind": "end", "step": HookStep.SUCCEED, "hook": str(hook)}:
                succeeded.setdefault(claim_id, set()).add(hook)
            case {"kind": "forget"}:
                done.discard(claim_id)
                succeeded.pop(claim_id, None)
            case {"kind": "compact", "ids": [*ids]}:
                settled.update(map(str, ids))
        try:
            state = apply_record(state, record)
        except INVALID_RECORD:
            continue  # the records that it depends on are lost
    for claim_id in sorted((done | succeeded.keys()) - state.claims.keys() - settled):
        # The id is derived from the event, so a replay of the event still finds this claim.
        event = {"workspace": None, "owner": None, "reason": PREBUILD_CLAIMED, "token": ""}
        state = state.with_claim(_admitted({"claim": claim_id, **event, "held": why, "at": at}))
    for claim in state.claims.values():
        proven = _with_successes(claim, succeeded.get(claim.id, set()))
        if claim.id in done or claim.state is ClaimState.DONE:
            state = state.with_claim(proven._replace(state=ClaimState.DONE, why=""))
        else:
            state = state.with_claim(proven._replace(state=ClaimState.HELD, why=why, changed_at=at))
    return state._replace(damage=why, settled_ids=frozenset(settled))


def _with_successes(claim: Claim, names: set[str]) -> Claim:
    hooks = {hook.name: hook for hook in claim.hooks}
    for name in names:
        hooks[name] = hooks.get(name, Hook(name))._replace(state=HookState.SUCCEEDED)
    return claim._replace(hooks=tuple(hooks[name] for name in sorted(hooks)))


def _add(state: LedgerState, claim: Claim) -> LedgerState:
    if claim.id in state.claims:
        raise IllegalClaimStepError(f"claim {claim.id} is already admitted")
    return state.with_claim(claim)


def _admitted(record: Record) -> Claim:
    held = str(record["held"])
    return Claim(
        id=str(record["claim"]),
        workspace_id=record["workspace"],
        owner_id=record["owner"],
        reason=str(record["reason"]),
        token_fingerprint=str(record["token"]),
        state=ClaimState.HELD if held else ClaimState.ADMITTED,
        why=held,
        admitted_at=_time(record),
        changed_at=_time(record),
        inferred=bool(record.get("inferred", False)),
    )


def _time(record: Record) -> float:
    """Raises `ValueError` for a time that no calendar has, which could not be printed."""
    return unix_time(record["at"])


def _compact(state: LedgerState, record: Record) -> LedgerState:
    removed = {claim_id: state.claim(claim_id) for claim_id in record["claims"]}
    if not all(claim.is_final for claim in removed.values()):
        raise IllegalClaimStepError("cannot compact a claim that is not final")
    return state._replace(
        claims={claim_id: claim for claim_id, claim in state.claims.items() if claim_id not in removed},
        settled_ids=state.settled_ids | {str(claim_id) for claim_id in record["ids"]},
    )


def _forget(state: LedgerState, record: Record) -> LedgerState:
    claim = state.claim(record["claim"])
    if claim.started_hook is not None:
        raise IllegalClaimStepError(
            f"cannot forget claim {claim.id}: hook {claim.started_hook.name!r} may still run",
            hint="start agentd, which ends the hook, or wait until the hook ends",
        )
    return state._replace(claims={k: v for k, v in state.claims.items() if k != claim.id})


def _bind(claim: Claim, record: Record) -> Claim:
    for known, given in ((claim.workspace_id, record["workspace"]), (claim.owner_id, record["owner"])):
        if known is not None and known != given:
            raise IllegalClaimStepError(f"claim {claim.id} is recorded for {known}, not for {given}")
    return claim._replace(
        workspace_id=record["workspace"], owner_id=record["owner"], token_fingerprint=str(record["token"])
    )


def _plan_hooks(claim: Claim, record: Record) -> Claim:
    state = _after_claim_step(claim, ClaimStep.PLAN_HOOKS)
    if claim.started_hook is not None:
        raise IllegalClaimStepError(f"hook {claim.started_hook.name!r} of claim {claim.id} has not ended")
    names = [str(name) for name in record["hooks"]]
    known = {hook.name: hook for hook in claim.hooks}
    hooks = [_after_hook_step(claim, known.get(name, Hook(name)), HookStep.PLAN) for name in names]
    for hook in known.values():
        if hook.name not in names:
            succeeded = hook.state is HookState.SUCCEEDED
            hooks.append(hook if succeeded else _after_hook_step(claim, hook, HookStep.SKIP))
    return claim._replace(state=state, hooks=tuple(sorted(hooks, key=lambda hook: hook.name)), why="")


def _start(claim: Claim, record: Record) -> Claim:
    hook = claim.hook(record["hook"])
    if claim.state is not ClaimState.ACTING:
        raise IllegalClaimStepError(f"cannot start hook {hook.name!r}: claim {claim.id} is {claim.state}")
    started = _after_hook_step(claim, hook, HookStep.START)
    if claim.next_hook is not hook:
        raise IllegalClaimStepError(f"hook {hook.name!r} is not the next hook of claim {claim.id}")
    new_run = Hook(hook.name, started.state, hook.attempt + 1, hook.failures, hook.interruptions)
    return claim.with_hook(new_run._replace(run_id=str(record["run"]), started_at=_time(record)))


def _spawned(claim: Claim, record: Record) -> Claim:
    hook = _started_hook(claim, record)
    process = ProcessIdentity(int(record["pid"]), int(record["ticks"]), str(record["boot"]))
    return claim.with_hook(hook._replace(process=process))


def _end(claim: Claim, record: Record) -> Claim:
    hook = _started_hook(claim, record)
    step = HookStep(record["step"])
    return claim.with_hook(
        _after_hook_step(claim, hook, step)._replace(
            failures=hook.failures + (step is HookStep.FAIL),
            interruptions=hook.interruptions + (step is HookStep.INTERRUPT),
            exit_code=record["exit"],
            why=str(record["why"]),
            tail=str(record["tail"]),
            ended_at=_time(record),
        )
    )


def _settle(claim: Claim, record: Record) -> Claim:
    step = ClaimStep(record["step"])
    state = _after_claim_step(claim, step)
    hook = {ClaimStep.FINISH: claim.next_hook, ClaimStep.FAIL: claim.started_hook}.get(step)
    if hook is not None:
        raise IllegalClaimStepError(f"cannot {step} claim {claim.id}: hook {hook.name!r} is {hook.state}")
    return claim._replace(state=state, why=str(record["why"]))


def _retry(claim: Claim, _record: Record) -> Claim:
    state = _after_claim_step(claim, ClaimStep.RETRY)
    hooks = tuple(hook._replace(failures=0, interruptions=0) for hook in claim.hooks)
    return claim._replace(state=state, why="", hooks=hooks)


_CLAIM_RECORDS: Final[Mapping[str, Callable[[Claim, Record], Claim]]] = {
    "bind": _bind,
    "act": _plan_hooks,
    "start": _start,
    "spawned": _spawned,
    "end": _end,
    "settle": _settle,
    "retry": _retry,
}


def _started_hook(claim: Claim, record: Record) -> Hook:
    hook = claim.hook(record["hook"])
    if hook.state is not HookState.STARTED or hook.run_id != record["run"]:
        raise IllegalClaimStepError(f"hook {hook.name!r} of claim {claim.id} is not in run {record['run']!r}")
    return hook


def _after_claim_step(claim: Claim, step: ClaimStep) -> ClaimState:
    return advance(CLAIM_TRANSITIONS, claim.state, step, of=f"claim {claim.id}")


def _after_hook_step(claim: Claim, hook: Hook, step: HookStep) -> Hook:
    what = f"hook {hook.name!r} of claim {claim.id}"
    return hook._replace(state=advance(HOOK_TRANSITIONS, hook.state, step, of=what))
