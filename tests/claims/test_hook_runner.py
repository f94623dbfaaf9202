"""One claim's way through its hooks: attempts, holds, refusals, leftovers, a disk that is full, a stop in the middle."""

import asyncio
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from agentd.claims import ledger_file
from agentd.claims.claim import Claim
from agentd.claims.events import ClaimEvent
from agentd.claims.hook_runner import MAX_INTERRUPTIONS, HookPolicy, HookRunner
from agentd.claims.ledger import Ledger
from agentd.claims.lifecycle import ClaimState, HookState
from agentd.clock import Clock
from agentd.hooks.directory import ON_CLAIM
from agentd.hooks.processes import living
from agentd.metrics import Registry
from agentd.proc import identify

EVENT = ClaimEvent(
    "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222", "prebuild_claimed"
)


class Stage:
    """An hook_runner on a ledger with one admitted claim; `pauses` are the waits between attempts, none of them long."""

    def __init__(self, state_dir: Path, hooks_dir: Path, **policy: Any) -> None:
        self.ledger = Ledger(state_dir)
        self.ledger.token_fingerprint = "token-one"
        self.claim_id = self.ledger.admit(EVENT).claim.id
        self.pauses: list[float] = []
        self.metrics = Registry()
        self.hook_runner = HookRunner(
            ledger=self.ledger,
            policy=HookPolicy(hooks_dir, state_dir, **{"timeout_s": 30.0, **policy}),
            clock=Clock(sleep=self._sleep),
            metrics=self.metrics,
            environ={"PATH": "/usr/bin:/bin"},
        )

    async def _sleep(self, seconds: float) -> None:
        if (
            0.5 <= seconds < 30 and seconds != 2.0
        ):  # neither a look at /proc, nor the drain, nor a hook's timeout
            self.pauses.append(seconds)
        await asyncio.sleep(seconds if seconds >= 2 and seconds not in self.pauses else min(seconds, 0.01))

    async def act(self) -> Claim:
        return await self.hook_runner.run_claim(self.claim_id)

    def runs(self, outcome: str) -> float:
        return self.metrics.counter("agentd_hook_runs_total", "", "outcome").value(outcome=outcome)


@pytest.fixture
def stage(state_dir: Path, hooks: Any) -> Any:
    def make(**policy: Any) -> Stage:
        return Stage(state_dir, hooks.root, **policy)

    return make


async def test_hooks_run_in_name_order_and_the_claim_is_done(stage: Any, hooks: Any) -> None:
    for name in ("20-b", "10-a", "30-c"):
        hooks.add(name)
    one = stage()
    claim = await one.act()
    assert claim.state is ClaimState.DONE
    assert hooks.runs() == ["10-a 1", "20-b 1", "30-c 1"]
    assert await one.act() == claim, "done is done"
    assert len(hooks.runs()) == 3
    assert one.runs("succeeded") == 3


async def test_without_hooks_a_claim_is_done_at_once(stage: Any, hooks: Any) -> None:
    assert (await stage().act()).state is ClaimState.DONE


async def test_without_a_hooks_directory_a_claim_is_done_at_once(state_dir: Path, tmp_path: Path) -> None:
    assert (await Stage(state_dir, tmp_path / "none").act()).state is ClaimState.DONE


async def test_a_failing_hook_is_retried_with_backoff_until_the_claim_fails(stage: Any, hooks: Any) -> None:
    hooks.add("10-a", "echo boo; exit 4")
    hooks.add("20-b")
    one = stage(max_attempts=3)
    claim = await one.act()
    assert claim.state is ClaimState.FAILED
    assert claim.why == "hook 10-a failed 3 times, last: exit code 4"
    assert hooks.runs() == ["10-a 1", "10-a 2", "10-a 3"], "later hooks wait"
    assert claim.hook("10-a").tail == "boo\n"
    assert claim.hook("20-b").state is HookState.PENDING
    assert len(one.pauses) == 2
    assert one.runs("failed") == 3


async def test_a_retried_claim_continues_with_the_hook_that_failed(stage: Any, hooks: Any) -> None:
    hooks.add("10-a")
    hooks.add("20-b", '[ "$AGENTD_ATTEMPT" -ge 3 ]')
    one = stage(max_attempts=2)
    assert (await one.act()).state is ClaimState.FAILED
    one.ledger.retry(one.claim_id)
    assert (await one.act()).state is ClaimState.DONE
    assert hooks.runs() == ["10-a 1", "20-b 1", "20-b 2", "20-b 3"]


async def test_the_event_id_is_the_same_at_every_attempt(stage: Any, hooks: Any) -> None:
    hooks.add("10-a", '[ "$AGENTD_ATTEMPT" = 2 ]')
    one = stage()
    await one.act()
    assert {line.split()[2] for line in hooks.trace.read_text().splitlines()} == {one.claim_id}


async def test_the_environment_of_a_hook_names_the_claim_and_the_attempt(
    stage: Any, hooks: Any, state_dir: Path
) -> None:
    told = hooks.root / "told"
    hooks.add("10-a", f'env | grep ^AGENTD_ | grep -v RUN_ID | sort > "{told}"')
    one = stage()
    claim = await one.act()
    assert dict(line.split("=", 1) for line in told.read_text().splitlines()) == {
        "AGENTD_EVENT_ID": claim.id,
        "AGENTD_ATTEMPT": "1",
        "AGENTD_HOOK": "10-a",
        "AGENTD_REASON": "prebuild_claimed",
        "AGENTD_WORKSPACE_ID": claim.workspace_id,
        "AGENTD_OWNER_ID": claim.owner_id,
        "AGENTD_STATE_DIR": str(state_dir),
    }


async def test_a_hook_that_others_may_write_is_refused_without_being_run(stage: Any, hooks: Any) -> None:
    hooks.add("10-a").chmod(0o777)
    one = stage()
    claim = await one.act()
    assert claim.state is ClaimState.FAILED
    assert "may be written by other users" in claim.why
    assert "may be written by other users" in claim.hook("10-a").why
    assert hooks.runs() == []
    hooks.add("10-a")
    one.ledger.retry(one.claim_id)
    assert (await one.act()).state is ClaimState.DONE


async def test_a_hooks_directory_that_others_may_write_holds_the_claim(stage: Any, hooks: Any) -> None:
    hooks.add("10-a")
    hooks.directory.chmod(0o777)
    one = stage()
    claim = await one.act()
    assert claim.state is ClaimState.HELD
    assert "may be written by other users" in claim.why
    assert hooks.runs() == []


async def stopped_in(one: Stage, hooks: Any) -> None:
    """Start acting and cancel it once the first hook has begun."""
    acting = asyncio.create_task(one.act())
    before = len(hooks.runs())
    while len(hooks.runs()) == before:
        await asyncio.sleep(0.005)
    acting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acting


async def test_a_hook_that_a_stop_interrupted_is_done_after_the_next_start(stage: Any, hooks: Any) -> None:
    hooks.add("10-a", '[ "$AGENTD_ATTEMPT" = 2 ] || exec sleep 600')
    hooks.add("20-b")
    one = stage()
    await stopped_in(one, hooks)
    hook = one.ledger.claim(one.claim_id).hook("10-a")
    assert (hook.state, hook.interruptions, hook.failures) == (HookState.INTERRUPTED, 1, 0)
    one.ledger.close()
    assert (await stage().act()).state is ClaimState.DONE
    assert hooks.runs() == ["10-a 1", "10-a 2", "20-b 1"]


async def test_with_on_interrupted_hold_an_interrupted_claim_is_held_until_retried(
    stage: Any, hooks: Any
) -> None:
    hooks.add("10-a", '[ "$AGENTD_ATTEMPT" = 2 ] || exec sleep 600')
    one = stage(on_interrupted="hold")
    await stopped_in(one, hooks)
    claim = await one.act()
    assert (claim.state, claim.why) == (ClaimState.HELD, "hook 10-a was interrupted")
    one.ledger.retry(one.claim_id)
    assert (await one.act()).state is ClaimState.DONE


async def test_interruptions_do_not_count_as_attempts_and_are_limited(stage: Any, hooks: Any) -> None:
    hooks.add("10-a", "exec sleep 600")
    one = stage(max_attempts=1)
    for _ in range(MAX_INTERRUPTIONS):
        await stopped_in(one, hooks)
    claim = await one.act()
    assert claim.state is ClaimState.HELD
    assert claim.why == f"hook 10-a was interrupted {MAX_INTERRUPTIONS} times"
    assert len(hooks.runs()) == MAX_INTERRUPTIONS


@pytest.mark.parametrize(
    "recorded", [True, False], ids=["pid recorded", "killed before the pid was recorded"]
)
async def test_a_hook_left_running_by_a_killed_agentd_is_ended_before_it_is_retried(
    stage: Any, hooks: Any, recorded: bool
) -> None:
    hooks.add("10-a")
    one = stage()
    one.ledger.plan_hooks(one.claim_id, ["10-a"])
    one.ledger.start(one.claim_id, "10-a", "lost-run")
    env = {"PATH": "/usr/bin:/bin", "AGENTD_RUN_ID": "lost-run"}
    left = await asyncio.create_subprocess_exec("sleep", "600", env=env, start_new_session=True)
    if recorded:
        process = identify(left.pid)
        assert process is not None
        one.ledger.spawned(one.claim_id, "10-a", "lost-run", process)
    claim = await one.act()
    assert await left.wait() < 0
    assert claim.state is ClaimState.DONE
    assert hooks.runs() == ["10-a 2"], "the lost run was attempt 1"
    assert living("lost-run", None) == []


async def test_a_removed_hook_is_skipped_and_a_removed_directory_holds_the_claim(
    stage: Any, hooks: Any
) -> None:
    hooks.add("10-a")
    hooks.add("20-b", '[ "$AGENTD_ATTEMPT" = 2 ] || exec sleep 600')
    one = stage()
    await stopped_in(one, hooks)  # in 10-a or between the two
    shutil.move(hooks.directory, hooks.root / "away")
    assert (await one.act()).state is ClaimState.HELD
    shutil.move(hooks.root / "away", hooks.directory)
    (hooks.directory / "20-b").unlink()
    one.ledger.retry(one.claim_id)
    claim = await one.act()
    assert claim.state is ClaimState.DONE
    assert claim.hook("20-b").state is HookState.SKIPPED
    assert not (hooks.root / ON_CLAIM / "20-b").exists()


async def test_a_hook_does_not_start_before_its_record_is_written(
    stage: Any, hooks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks.add("10-a")
    one = stage()
    refused: list[int] = []

    def full(*_args: object) -> int:
        refused.append(1)
        assert hooks.runs() == [], "nothing runs that is not recorded"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ledger_file.os, "pwrite", full)
    acting = asyncio.create_task(one.act())
    while len(refused) < 5:
        await asyncio.sleep(0.005)
    monkeypatch.undo()
    assert (await acting).state is ClaimState.DONE
    assert hooks.runs() == ["10-a 1"]


async def test_a_success_is_recorded_after_the_disk_recovers_and_the_hook_runs_once(
    stage: Any, hooks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks.add("10-a")
    one = stage()
    real, refused = os.pwrite, []

    def full_after_the_hook(fd: int, data: bytes, offset: int) -> int:
        if b'"succeed"' in data and len(refused) < 5:
            refused.append(1)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, offset)

    monkeypatch.setattr(ledger_file.os, "pwrite", full_after_the_hook)
    assert (await one.act()).state is ClaimState.DONE
    assert len(refused) == 5
    assert hooks.runs() == ["10-a 1"]


async def test_a_timed_out_hook_is_a_failed_attempt(stage: Any, hooks: Any) -> None:
    hooks.add("10-a", '[ "$AGENTD_ATTEMPT" = 2 ] || exec sleep 600')
    one = stage(timeout_s=0.4, grace_s=0.2)
    claim = await one.act()
    assert claim.state is ClaimState.DONE
    assert (claim.hook("10-a").attempt, claim.hook("10-a").failures) == (2, 1)
    assert one.runs("timed_out") == 1


async def test_the_activity_is_reported_while_hooks_run(stage: Any, hooks: Any) -> None:
    hooks.add("10-a", '[ "$AGENTD_ATTEMPT" = 2 ]')
    one = stage()
    told: list[str] = []
    one.hook_runner.on_change = lambda: told.append(one.hook_runner.activity)
    await one.act()
    assert told == [
        f"claim {one.claim_id}",
        f"running hook 10-a of claim {one.claim_id}, attempt 1",
        "waiting to run hook 10-a again",
        f"running hook 10-a of claim {one.claim_id}, attempt 2",
        "",
    ]


async def test_ten_interleaved_claims_each_run_their_hooks_once(stage: Any, hooks: Any) -> None:
    hooks.add("10-a")
    one = stage()
    owners = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(9)]
    ids = [one.claim_id] + [
        one.ledger.admit(ClaimEvent(EVENT.workspace_id, owner, EVENT.reason)).claim.id for owner in owners
    ]
    await asyncio.gather(*(one.hook_runner.run_claim(claim_id) for claim_id in ids))
    assert sorted(line.split()[2] for line in hooks.trace.read_text().splitlines()) == sorted(ids)
    assert all(claim.state is ClaimState.DONE for claim in one.ledger.all_claims())
