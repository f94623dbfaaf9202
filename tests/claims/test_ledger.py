"""Ownership of claims, replays, and a Hypothesis model of the ledger with restarts and torn records."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from agentd.claims.events import ClaimEvent
from agentd.claims.ledger import (
    Ledger,
    LedgerFullError,
    claim_as_json,
    claim_id_of,
    fingerprint,
)
from agentd.claims.ledger_file import LEDGER_NAME
from agentd.claims.ledger_format import scan
from agentd.claims.ledger_mark import MARK_NAME
from agentd.claims.ledger_state import UnknownClaimError
from agentd.claims.lifecycle import (
    FINISHED_HOOK_STATES,
    ClaimState,
    ClaimStep,
    HookState,
    HookStep,
    IllegalClaimStepError,
)
from agentd.clock import Clock
from agentd.proc import ProcessIdentity

W = "11111111-1111-4111-8111-111111111111"
OTHER = "33333333-3333-4333-8333-333333333333"
OWNER = "22222222-2222-4222-8222-222222222222"
SOMEONE = "44444444-4444-4444-8444-444444444444"
REASON = "prebuild_claimed"


def opened(directory: Path, *, workspace_id: str | None = None, token: str | None = "token-one") -> Ledger:
    # The time is constant, so the same steps give the same bytes.
    ledger = Ledger(directory, workspace_id=workspace_id, clock=Clock(wall=lambda: 1_772_442_000.0))
    ledger.token_fingerprint = token
    return ledger


def claim_event(workspace_id: str | None = W, owner_id: str | None = OWNER) -> ClaimEvent:
    return ClaimEvent(workspace_id, owner_id, REASON)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(claim_event(), claim_event(), id="the same"),
        pytest.param(claim_event(), claim_event(owner_id=None), id="the owner is left out later"),
        pytest.param(claim_event(owner_id=None), claim_event(), id="the owner is named later"),
        pytest.param(claim_event(), claim_event(workspace_id=None), id="the workspace is left out later"),
        pytest.param(claim_event(workspace_id=None), claim_event(), id="the workspace is named later"),
        pytest.param(claim_event(None, None), claim_event(), id="nothing was named at first"),
        pytest.param(claim_event(None, None), claim_event(None, None), id="nothing is ever named"),
    ],
)
def test_an_event_with_more_or_fewer_fields_is_a_replay(
    state_dir: Path, first: ClaimEvent, second: ClaimEvent
) -> None:
    ledger = opened(state_dir)
    admitted = ledger.admit(first)
    assert not admitted.is_replay
    ledger.close()
    ledger = opened(state_dir)
    replay = ledger.admit(second)
    assert replay.is_replay
    assert replay.claim.id == admitted.claim.id
    assert replay.claim.owner_id == (first.owner_id or second.owner_id)
    assert ledger.admit(first).is_replay
    assert len(ledger.all_claims()) == 1


def test_another_owner_is_another_claim(state_dir: Path) -> None:
    ledger = opened(state_dir)
    ids = {ledger.admit(claim_event(owner_id=owner)).claim.id for owner in (OWNER, SOMEONE, OWNER)}
    assert len(ids) == 2


def test_a_replay_without_new_facts_writes_nothing(state_dir: Path) -> None:
    ledger = opened(state_dir)
    ledger.admit(claim_event())
    size = (state_dir / LEDGER_NAME).stat().st_size
    for _ in range(10_000):
        assert ledger.admit(claim_event()).is_replay
    assert (state_dir / LEDGER_NAME).stat().st_size == size


def done(ledger: Ledger, claim: str) -> None:
    ledger.plan_hooks(claim, [])
    ledger.settle(claim, ClaimStep.FINISH)


@pytest.mark.parametrize("named", [True, False], ids=["workspace configured", "workspace unknown"])
def test_a_cloned_ledger_does_not_suppress_a_claim_of_the_clone(state_dir: Path, named: bool) -> None:
    baked = opened(state_dir, workspace_id=W if named else None)
    done(baked, baked.admit(claim_event()).claim.id)
    baked.close()
    clone = opened(state_dir, workspace_id=OTHER if named else None, token="token-two")
    assert clone.latest() is None
    # An event without workspace and owner also belongs to the clone.
    for event in (claim_event(None, None), claim_event(OTHER, OWNER)):
        assert clone.find(event) is None
    assert not clone.admit(claim_event(OTHER, OWNER)).is_replay


@pytest.mark.parametrize("named", [True, False], ids=["workspace configured", "workspace unknown"])
def test_a_cloned_ledger_does_not_resume_a_claim_of_the_original(state_dir: Path, named: bool) -> None:
    baked = opened(state_dir, workspace_id=W if named else None)
    baked.admit(claim_event())
    baked.close()
    clone = opened(state_dir, workspace_id=OTHER if named else None, token="token-two")
    assert clone.unfinished() == ()
    same = opened(state_dir, workspace_id=W if named else None)
    assert len(same.unfinished()) == 1


def test_an_unfinished_claim_with_another_token_resumes_after_its_event(state_dir: Path) -> None:
    before = opened(state_dir, token="token-one")
    claim = before.admit(claim_event()).claim
    before.close()
    after = opened(state_dir, token="token-two")
    assert after.unfinished() == ()
    assert after.admit(claim_event()).is_replay
    assert [known.id for known in after.unfinished()] == [claim.id]


def test_without_a_token_only_a_configured_workspace_id_identifies_claims(state_dir: Path) -> None:
    opened(state_dir).admit(claim_event())
    assert opened(state_dir, token=None).unfinished() == ()
    assert len(opened(state_dir, workspace_id=W, token=None).unfinished()) == 1


def test_the_workspace_id_is_read_from_the_claim_with_the_present_token(state_dir: Path) -> None:
    assert opened(state_dir).workspace_id is None
    opened(state_dir).admit(claim_event())
    assert opened(state_dir).workspace_id == W
    assert opened(state_dir, token="token-two").workspace_id is None
    assert opened(state_dir, workspace_id=OTHER.upper()).workspace_id == OTHER


def test_the_claim_id_is_stable_and_the_token_is_not_in_the_file(state_dir: Path) -> None:
    secret = "2f6c1c1e-6d0a-4f0c-9a55-2f0b3e5f7a11"
    ledger = opened(state_dir, token=fingerprint(secret))
    claim = ledger.admit(claim_event()).claim
    assert claim.id == claim_id_of(claim_event(), token_fingerprint="any") == "3ede72cf0ac8"
    assert secret not in (state_dir / LEDGER_NAME).read_text()
    assert claim.token_fingerprint not in str(claim_as_json(claim))


def test_retry_starts_at_the_first_hook_without_success_and_resets_the_counts(state_dir: Path) -> None:
    ledger = opened(state_dir)
    claim = ledger.admit(claim_event()).claim
    ledger.plan_hooks(claim.id, ["10-a", "20-b"])
    ledger.start(claim.id, "10-a", "r1")
    ledger.end(claim.id, "10-a", "r1", HookStep.SUCCEED, exit_code=0, why="", tail="")
    ledger.start(claim.id, "20-b", "r2")
    ledger.end(claim.id, "20-b", "r2", HookStep.FAIL, exit_code=2, why="exit code 2", tail="boo")
    ledger.settle(claim.id, ClaimStep.FAIL, "hook 20-b failed 1 times")
    with pytest.raises(IllegalClaimStepError):
        ledger.plan_hooks(claim.id, ["10-a"])
    again = ledger.retry(claim.id)
    assert again.state is ClaimState.ADMITTED
    assert again.next_hook is not None
    assert (again.next_hook.name, again.next_hook.attempt, again.next_hook.failures) == ("20-b", 1, 0)
    assert claim_as_json(again, tails=True)["hooks"][1]["tail"] == "boo"


def test_a_done_claim_cannot_be_retried_and_a_forgotten_one_is_admitted_again(state_dir: Path) -> None:
    ledger = opened(state_dir)
    claim = ledger.admit(claim_event()).claim
    done(ledger, claim.id)
    with pytest.raises(IllegalClaimStepError, match="is done"):
        ledger.retry(claim.id)
    ledger.forget(claim.id)
    assert not ledger.admit(claim_event()).is_replay


def test_a_claim_with_a_started_hook_cannot_be_forgotten(state_dir: Path) -> None:
    ledger = opened(state_dir)
    claim = ledger.admit(claim_event()).claim
    ledger.plan_hooks(claim.id, ["10-a"])
    ledger.start(claim.id, "10-a", "r1")
    with pytest.raises(IllegalClaimStepError, match="may still run"):
        ledger.forget(claim.id)
    assert ledger.claim(claim.id).started_hook is not None


@pytest.mark.parametrize("verb", ["claim", "retry", "forget"])
def test_an_unknown_id_has_its_own_error(state_dir: Path, verb: str) -> None:
    with pytest.raises(UnknownClaimError, match="'beef'"):
        getattr(opened(state_dir), verb)("beef")


def test_hooks_start_in_name_order_one_at_a_time_and_never_after_success(state_dir: Path) -> None:
    ledger = opened(state_dir)
    claim = ledger.admit(claim_event()).claim
    ledger.plan_hooks(claim.id, ["10-a", "20-b"])
    with pytest.raises(IllegalClaimStepError, match="not the next"):
        ledger.start(claim.id, "20-b", "r")
    ledger.start(claim.id, "10-a", "r1")
    for refused in (("10-a", "r2"), ("20-b", "r2")):
        with pytest.raises(IllegalClaimStepError):
            ledger.start(claim.id, *refused)
    with pytest.raises(IllegalClaimStepError, match="not in run"):
        ledger.end(claim.id, "10-a", "r0", HookStep.SUCCEED, exit_code=0, why="", tail="")
    ledger.end(claim.id, "10-a", "r1", HookStep.SUCCEED, exit_code=0, why="", tail="")
    with pytest.raises(IllegalClaimStepError):
        ledger.start(claim.id, "10-a", "r3")
    with pytest.raises(IllegalClaimStepError, match="cannot finish"):
        ledger.settle(claim.id, ClaimStep.FINISH)


def test_removed_hooks_are_skipped_and_added_hooks_planned_while_the_claim_acts(state_dir: Path) -> None:
    ledger = opened(state_dir)
    claim = ledger.admit(claim_event()).claim
    ledger.plan_hooks(claim.id, ["20-b", "30-c"])
    after = ledger.plan_hooks(claim.id, ["10-a", "30-c"])
    assert [(hook.name, hook.state.value) for hook in after.hooks] == [
        ("10-a", "pending"), ("20-b", "skipped"), ("30-c", "pending"),
    ]  # fmt: skip
    back = ledger.plan_hooks(claim.id, ["10-a", "20-b", "30-c"])
    assert back.hook("20-b").state is HookState.PENDING


def test_the_number_of_claims_is_limited(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentd.claims.ledger.MAX_CLAIMS", 3)
    ledger = opened(state_dir)
    owners = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(1, 5)]
    for owner in owners[:3]:
        ledger.admit(claim_event(owner_id=owner))
    with pytest.raises(LedgerFullError):
        ledger.admit(claim_event(owner_id=owners[3]))
    assert ledger.admit(claim_event(owner_id=owners[0])).is_replay


class LedgerModel(RuleBasedStateMachine):
    """Random steps, restarts and torn records. No durable record is lost."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory()
        self.directory = Path(self._temporary.name)
        self.ledger = opened(self.directory)
        self.known: dict[str, Any] = {}
        self.succeeded: set[tuple[str, str]] = set()
        self.runs = 0

    def teardown(self) -> None:
        self.ledger.close()
        self._temporary.cleanup()

    def _try(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the ledger. An illegal step raises and changes nothing, in memory or on disk."""
        size = self._size()
        try:
            return getattr(self.ledger, verb)(*args, **kwargs)
        except (IllegalClaimStepError, UnknownClaimError):
            assert self._size() == size
            return None

    def _size(self) -> int:
        path = self.directory / LEDGER_NAME
        return path.stat().st_size if path.exists() else 0

    def _remember(self) -> None:
        self.known = {claim.id: claim for claim in self.ledger.all_claims()}

    @rule(
        target=claims,
        owner=st.sampled_from([None, OWNER, SOMEONE]),
        workspace=st.sampled_from([W, OTHER, None]),
    )
    def admit(self, owner: str | None, workspace: str | None) -> str:
        event = ClaimEvent(workspace, owner, REASON)
        known = self.ledger.find(event)
        admission = self.ledger.admit(event)
        assert admission.is_replay == (known is not None)
        self._remember()
        return admission.claim.id

    @rule(claim=claims, hooks=st.sets(st.sampled_from(["10-a", "20-b", "30-c"])))
    def act(self, claim: str, hooks: set[str]) -> None:
        self._try("plan_hooks", claim, sorted(hooks))
        self._remember()

    @rule(claim=claims, hook=st.sampled_from(["10-a", "20-b", "30-c"]))
    def start(self, claim: str, hook: str) -> None:
        self.runs += 1
        started = self._try("start", claim, hook, f"run-{self.runs}")
        if started is not None:
            assert (claim, hook) not in self.succeeded
        self._remember()

    @rule(claim=claims, step=st.sampled_from([HookStep.SUCCEED, HookStep.FAIL, HookStep.INTERRUPT]))
    def end(self, claim: str, step: HookStep) -> None:
        hook = self.known[claim].started_hook if claim in self.known else None
        if hook is None:
            return
        self._try("spawned", claim, hook.name, hook.run_id, ProcessIdentity(7, 8, "boot"))
        ended = self._try("end", claim, hook.name, hook.run_id, step, exit_code=1, why="why", tail="t" * 50)
        if ended is not None and step is HookStep.SUCCEED:
            self.succeeded.add((claim, hook.name))
        self._remember()

    @rule(claim=claims)
    def finish(self, claim: str) -> None:
        finished = self._try("settle", claim, ClaimStep.FINISH)
        if finished is not None:
            assert all(hook.state in FINISHED_HOOK_STATES for hook in finished.hooks)
        self._remember()

    @rule(claim=claims, step=st.sampled_from([ClaimStep.FAIL, ClaimStep.HOLD]))
    def fail_or_hold(self, claim: str, step: ClaimStep) -> None:
        self._try("settle", claim, step, "why")
        self._remember()

    @rule(claim=claims)
    def retry(self, claim: str) -> None:
        self._try("retry", claim)
        self._remember()

    @rule(claim=consumes(claims))
    def forget(self, claim: str) -> None:
        self._try("forget", claim)
        self._remember()
        if claim not in self.known:
            self.succeeded = {pair for pair in self.succeeded if pair[0] != claim}

    @rule()
    def restart_between_records(self) -> None:
        self.ledger.close()
        self.ledger = opened(self.directory)

    @precondition(lambda self: self._size() > 0)
    @rule(data=st.data(), claim=claims)
    def tear_the_last_record(self, data: st.DataObject, claim: str) -> None:
        """Tear the last record, as a crash during its write does. The records before it are durable."""
        before = scan((self.directory / LEDGER_NAME).read_bytes()).sound_bytes
        mark = (self.directory / MARK_NAME).read_bytes()
        if self._try("retry", claim) is None and self._try("plan_hooks", claim, ["10-a"]) is None:
            return
        self.ledger.close()
        path = self.directory / LEDGER_NAME
        cut = data.draw(st.integers(before, path.stat().st_size - 2))
        path.write_bytes(path.read_bytes()[:cut] + data.draw(st.sampled_from([b"", b"\0", b"\0" * 100])))
        (self.directory / MARK_NAME).write_bytes(mark)  # it is written after the record
        self.ledger = opened(self.directory)

    @precondition(lambda self: self._size() > 0)
    @rule(data=st.data())
    def lose_whole_records(self, data: st.DataObject) -> None:
        """Lose records at the end, and notice it. The file is then restored."""
        self.ledger.close()
        path = self.directory / LEDGER_NAME
        whole = path.read_bytes()
        lines = whole[: scan(whole).sound_bytes].splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: data.draw(st.integers(0, len(lines) - 1))]))
        state = Ledger.read(self.directory)
        assert state.damage
        for claim, hook in self.succeeded:
            kept = state.claims.get(claim)
            assert kept is None or kept.state in (ClaimState.HELD, ClaimState.DONE), hook
        path.write_bytes(whole)
        self.ledger = opened(self.directory)

    @invariant()
    def every_durable_record_is_kept(self) -> None:
        assert {claim.id: claim for claim in self.ledger.all_claims()} == self.known
        assert not self.ledger.damage
        for claim, hook in self.succeeded:
            assert self.known[claim].hook(hook).state is HookState.SUCCEEDED


LedgerModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLedgerModel = LedgerModel.TestCase
