"""What may happen to a claim and to each of its hooks. Pure: two tables and the step through them.

A claim is `admitted` once, by the first event that names it; every further event is a replay and changes nothing. It
is `acting` from the moment its hooks are listed until each of them is settled, through crashes and restarts: there is
no state for "interrupted" on this level, because an interrupted claim is simply still acting. `held` and `failed` wait
for a person; only `retry` leads out of them, and it does not touch a hook that has succeeded. Nothing leads out of
`done`: a claim is forgotten rather than run again, so that no slip of a command runs it twice.

A hook is `started` before its process exists. That is the whole point of the ledger: a crash between the record and
the process shows as an interruption (the hook is tried again), and no crash shows as "never ran" what did run.
`succeeded` is final. A hook that was removed before it ran is `skipped`, and is planned again if it comes back while
its claim still acts.
"""

import enum
from collections.abc import Mapping
from typing import TypeVar

from agentd.errors import AgentdError


class IllegalClaimStepError(AgentdError):
    """A step that the tables do not know from this state. Nothing was changed."""


class ClaimState(enum.StrEnum):
    ADMITTED = "admitted"
    ACTING = "acting"
    DONE = "done"
    FAILED = "failed"
    HELD = "held"


class ClaimStep(enum.StrEnum):
    PLAN_HOOKS = "plan_hooks"
    FINISH = "finish"
    FAIL = "fail"
    HOLD = "hold"
    RETRY = "retry"


class HookState(enum.StrEnum):
    PENDING = "pending"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    SKIPPED = "skipped"


class HookStep(enum.StrEnum):
    PLAN = "plan"
    START = "start"
    SUCCEED = "succeed"
    FAIL = "fail"
    INTERRUPT = "interrupt"
    SKIP = "skip"


CLAIM_TRANSITIONS: Mapping[ClaimState, Mapping[ClaimStep, ClaimState]] = {
    ClaimState.ADMITTED: {
        ClaimStep.PLAN_HOOKS: ClaimState.ACTING,
        ClaimStep.HOLD: ClaimState.HELD,
    },
    ClaimState.ACTING: {
        # Listing the hooks again after a restart: one may have been added or removed meanwhile.
        ClaimStep.PLAN_HOOKS: ClaimState.ACTING,
        ClaimStep.FINISH: ClaimState.DONE,
        ClaimStep.FAIL: ClaimState.FAILED,
        ClaimStep.HOLD: ClaimState.HELD,
    },
    ClaimState.FAILED: {ClaimStep.RETRY: ClaimState.ADMITTED},
    ClaimState.HELD: {ClaimStep.RETRY: ClaimState.ADMITTED},
    ClaimState.DONE: {},
}

HOOK_TRANSITIONS: Mapping[HookState, Mapping[HookStep, HookState]] = {
    HookState.PENDING: {
        HookStep.PLAN: HookState.PENDING,
        HookStep.START: HookState.STARTED,
        HookStep.SKIP: HookState.SKIPPED,
    },
    HookState.STARTED: {
        HookStep.SUCCEED: HookState.SUCCEEDED,
        HookStep.FAIL: HookState.FAILED,
        HookStep.INTERRUPT: HookState.INTERRUPTED,
    },
    HookState.FAILED: {
        HookStep.PLAN: HookState.FAILED,
        HookStep.START: HookState.STARTED,
        HookStep.SKIP: HookState.SKIPPED,
    },
    HookState.INTERRUPTED: {
        HookStep.PLAN: HookState.INTERRUPTED,
        HookStep.START: HookState.STARTED,
        HookStep.SKIP: HookState.SKIPPED,
    },
    HookState.SUCCEEDED: {HookStep.PLAN: HookState.SUCCEEDED},
    HookState.SKIPPED: {HookStep.PLAN: HookState.PENDING, HookStep.SKIP: HookState.SKIPPED},
}

FINAL_CLAIM_STATES = frozenset({ClaimState.DONE, ClaimState.FAILED, ClaimState.HELD})
FINISHED_HOOK_STATES = frozenset({HookState.SUCCEEDED, HookState.SKIPPED})

_State = TypeVar("_State", bound=enum.StrEnum)
_Step = TypeVar("_Step", bound=enum.StrEnum)


def advance(table: Mapping[_State, Mapping[_Step, _State]], state: _State, step: _Step, *, of: str) -> _State:
    """The state after `step`. Raises `IllegalClaimStepError`, naming `of` (which claim or hook), when the table has no such step."""
    try:
        return table[state][step]
    except KeyError:
        raise IllegalClaimStepError(f"{of} is {state}: it cannot {step}") from None
