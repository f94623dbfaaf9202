"""The states of a claim and of its hooks, and the allowed steps between them: two tables and `advance`. Pure.

The first event that names a claim makes it `admitted`. Every later event of the same claim is a replay and
changes no state. The claim is `acting` from the moment its hooks are listed until each of them has finished,
also across crashes and restarts. A claim has no state "interrupted": an interrupted claim is still `acting`.
`held` and `failed` wait for an operator. Only `retry` leaves them, and it does not change a hook that has
succeeded. No step leaves `done`. To run a done claim again, an operator must forget it first, so that a
mistyped command cannot run it twice.

A hook is recorded as `started` before its process exists (write-ahead). A crash between the record and the
process therefore shows as an interruption, and the hook runs again; no crash makes a hook that ran look like
one that did not. `succeeded` is final. A hook whose file was removed before it succeeded is `skipped`. If the
file comes back while the claim is `acting`, the hook is planned again.
"""

import enum
from collections.abc import Mapping
from typing import Final, TypeVar

from agentd.errors import AgentdError


class IllegalClaimStepError(AgentdError):
    """A claim or one of its hooks cannot take this step from its present state. Nothing was changed."""


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


CLAIM_TRANSITIONS: Final[Mapping[ClaimState, Mapping[ClaimStep, ClaimState]]] = {
    ClaimState.ADMITTED: {
        ClaimStep.PLAN_HOOKS: ClaimState.ACTING,
        ClaimStep.HOLD: ClaimState.HELD,
    },
    ClaimState.ACTING: {
        # After a restart the hooks are listed again, because files may have been added or removed.
        ClaimStep.PLAN_HOOKS: ClaimState.ACTING,
        ClaimStep.FINISH: ClaimState.DONE,
        ClaimStep.FAIL: ClaimState.FAILED,
        ClaimStep.HOLD: ClaimState.HELD,
    },
    ClaimState.FAILED: {ClaimStep.RETRY: ClaimState.ADMITTED},
    ClaimState.HELD: {ClaimStep.RETRY: ClaimState.ADMITTED},
    ClaimState.DONE: {},
}

HOOK_TRANSITIONS: Final[Mapping[HookState, Mapping[HookStep, HookState]]] = {
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

FINAL_CLAIM_STATES: Final = frozenset({ClaimState.DONE, ClaimState.FAILED, ClaimState.HELD})
FINISHED_HOOK_STATES: Final = frozenset({HookState.SUCCEEDED, HookState.SKIPPED})

_State = TypeVar("_State", bound=enum.StrEnum)
_Step = TypeVar("_Step", bound=enum.StrEnum)


def advance(table: Mapping[_State, Mapping[_Step, _State]], state: _State, step: _Step, *, of: str) -> _State:
    """The state after `step`. Raises `IllegalClaimStepError` without one; `of` is the subject of its text."""
    try:
        return table[state][step]
    except KeyError:
        raise IllegalClaimStepError(f"cannot {step} {of}: its state is {state}") from None
