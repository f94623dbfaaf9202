"""Properties of the two transition tables."""

import itertools

import pytest

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


def test_every_state_has_a_row() -> None:
    assert set(CLAIM_TRANSITIONS) == set(ClaimState)
    assert set(HOOK_TRANSITIONS) == set(HookState)


@pytest.mark.parametrize(("state", "step"), list(itertools.product(ClaimState, ClaimStep)))
def test_a_step_of_a_claim_is_in_the_table_or_raises(state: ClaimState, step: ClaimStep) -> None:
    if step in CLAIM_TRANSITIONS[state]:
        assert advance(CLAIM_TRANSITIONS, state, step, of="claim") is CLAIM_TRANSITIONS[state][step]
    else:
        with pytest.raises(IllegalClaimStepError, match=f"cannot {step} claim: its state is {state}"):
            advance(CLAIM_TRANSITIONS, state, step, of="claim")


def test_no_step_leaves_done_and_only_retry_leaves_failed_and_held() -> None:
    assert CLAIM_TRANSITIONS[ClaimState.DONE] == {}
    for state in FINAL_CLAIM_STATES - {ClaimState.DONE}:
        assert set(CLAIM_TRANSITIONS[state]) == {ClaimStep.RETRY}


def test_a_hook_that_succeeded_is_never_started_again() -> None:
    reachable = {HookState.SUCCEEDED}
    for _ in HookState:
        reachable |= {after for state in reachable for after in HOOK_TRANSITIONS[state].values()}
    assert reachable == {HookState.SUCCEEDED}


def test_only_a_started_hook_ends_and_only_a_hook_that_is_not_started_starts() -> None:
    ending = {HookStep.SUCCEED, HookStep.FAIL, HookStep.INTERRUPT}
    for state, steps in HOOK_TRANSITIONS.items():
        assert (ending <= set(steps)) == (state is HookState.STARTED)
        assert not (state is HookState.STARTED and HookStep.START in steps)
        assert not (state in FINISHED_HOOK_STATES and HookStep.START in steps)


def test_every_state_can_be_reached() -> None:
    assert {after for steps in CLAIM_TRANSITIONS.values() for after in steps.values()} == set(ClaimState)
    assert {after for steps in HOOK_TRANSITIONS.values() for after in steps.values()} == set(HookState)
