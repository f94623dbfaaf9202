"""What can still be trusted of a damaged ledger. Pure.

A lost record may have been a success, so no claim that is not provably done may act by itself again: it is held until
a person looks. What was recorded as succeeded stays succeeded, even where the record before it is gone: a hook whose
success is known never runs again.
"""

from collections.abc import Iterable

from agentd.claims.events import PREBUILD_CLAIMED
from agentd.claims.ledger_state import Claim, Hook, LedgerState, Record, fold
from agentd.claims.lifecycle import ClaimState, ClaimStep, HookState, HookStep
from agentd.errors import AgentdError

# What `fold` raises for a record that does not follow from the ones before it, or is not of its kind's shape.
UNFOLDABLE = (AgentdError, KeyError, TypeError, ValueError, AttributeError)


def recover(records: Iterable[Record], *, why: str, at: float) -> LedgerState:
    """The book of what is readable, every claim not provably done held for the reason `why`. Never raises."""
    book, done, succeeded = LedgerState(), set[str](), dict[str, set[str]]()
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
        try:
            book = fold(book, record)
        except UNFOLDABLE:
            continue  # the records it follows from are the lost ones
    for claim_id in sorted((done | succeeded.keys()) - book.claims.keys()):
        book = book.having(_orphan(claim_id, at))
    for claim in book.claims.values():
        proven = _with_successes(claim, succeeded.get(claim.id, set()))
        if claim.id in done or claim.state is ClaimState.DONE:
            book = book.having(proven._replace(state=ClaimState.DONE))
        else:
            held = proven._replace(state=ClaimState.HELD, why=why, changed_at=at)
            book = book.having(held)
    return book._replace(damage=why)


def _orphan(claim_id: str, at: float) -> Claim:
    """A claim whose admission is lost. Its id is made of what the event names, so its event still finds it."""
    return Claim(
        id=claim_id,
        workspace_id=None,
        owner_id=None,
        reason=PREBUILD_CLAIMED,
        token="",
        state=ClaimState.HELD,
        admitted_at=at,
        changed_at=at,
    )


def _with_successes(claim: Claim, names: set[str]) -> Claim:
    known = {hook.name: hook for hook in claim.hooks}
    for name in names:
        known[name] = known.get(name, Hook(name))._replace(state=HookState.SUCCEEDED)
    return claim._replace(hooks=tuple(known[name] for name in sorted(known)))
