"""Running the hooks of one claim: attempts, holds, refusals, left processes, a full disk, an interruption."""

import asyncio
import errno
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest
from metric_values import value_of

from agentd.claims import ledger_file
from agentd.claims.claim import Claim
from agentd.claims.events import ClaimEvent
from agentd.claims.hook_runner import MAX_INTERRUPTIONS, HookRunner
from agentd.claims.ledger import Ledger
from agentd.claims.lifecycle import ClaimState, HookState
from agentd.clock import Clock
from agentd.hooks.directory import ON_CLAIM
from agentd.hooks.processes import living
from agentd.hooks.run import HookPolicy
from agentd.metrics import Registry
from agentd.proc import identify

EVENT = ClaimEvent(
    "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222", "prebuild_claimed"
)


class RunnerWithClaim:
    """A hook runner and a ledger with one admitted claim. `pauses` are the waits between attempts."""

    def __init__(self, state_dir: Path, hooks_dir: Path, **options: Any) -> None:
        self.ledger = Ledger(state_dir)
        self.ledger.token_fingerprint = "token-runner"
        self.claim_id = self.ledger.admit(EVENT).claim.id
        self.pauses: list[float] = []
        self.metrics = Registry()
        policy = {name: options.pop(name) for name in HookPolicy._fields if name in options}
        self.timeout_s = policy.get("timeout_s", 30.0)
        self.hook_runner = HookRunner(
            ledger=self.ledger,
            policy=HookPolicy(
                hooks_dir, state_dir, {"PATH": "/usr/bin:/bin"}, **{"timeout_s": 30.0, **policy}
            ),
            clock=Clock(sleep=self._sleep),
            metrics=self.metrics,
            **options,
        )

    async def _sleep(self, seconds: float) -> None:
        if 0.5 <= seconds < 30 and seconds != 2.0:  # not a poll of /proc, the drain or a hook's timeout
            self.pauses.append(seconds)
        is_timeout = seconds == self.timeout_s or (seconds >= 2 and seconds not in self.pauses)
        await asyncio.sleep(seconds if is_timeout else min(seconds, 0.01))

    async def run_claim(self) -> Claim:
        return await self.hook_runner.run_claim(self.claim_id)

    def runs(self, outcome: str) -> float:
        return value_of(self.metrics, "agentd_hook_runs_total", outcome=outcome)


@pytest.fixture
def new_runner(state_dir: Path, hooks: Any) -> Any:
    def make(**options: Any) -> RunnerWithClaim:
        return RunnerWithClaim(state_dir, hooks.root, **options)

    return make


async def test_hooks_run_in_name_order_and_the_claim_is_done(new_runner: Any, hooks: Any) -> None:
    for name in ("20-b", "10-a", "30-c"):
        hooks.add(name)
    runner = new_runner()
    claim = await runner.run_claim()
    assert claim.state is ClaimState.DONE
    assert hooks.runs() == ["10-a 1", "20-b 1", "30-c 1"]
    assert await runner.run_claim() == claim, "a done claim does not run again"
    assert len(hooks.runs()) == 3
    assert runner.runs("succeeded") == 3


async def test_without_hooks_a_claim_is_done_at_once(new_runner: Any, hooks: Any) -> None:
    assert (await new_runner().run_claim()).state is ClaimState.DONE


async def test_without_a_hooks_directory_a_claim_is_done_at_once(state_dir: Path, tmp_path: Path) -> None:
    assert (await RunnerWithClaim(state_dir, tmp_path / "none").run_claim()).state is ClaimState.DONE


async def test_a_failing_hook_is_retried_with_backoff_until_the_claim_fails(
    new_runner: Any, hooks: Any
) -> None:
    hooks.add("10-a", "echo boo; exit 4")
    hooks.add("20-b")
    runner = new_runner(max_attempts=3)
    claim = await runner.run_claim()
    assert claim.state is ClaimState.FAILED
    assert claim.why == "hook 10-a failed 3 times, last: exit code 4"
    assert hooks.runs() == ["10-a 1", "10-a 2", "10-a 3"], "the next hook waits"
    assert claim.hook("10-a").tail == "boo\n"
    assert claim.hook("20-b").state is HookState.PENDING
    assert len(runner.pauses) == 2
    assert runner.runs("failed") == 3


async def test_a_retried_claim_continues_with_the_hook_that_failed(new_runner: Any, hooks: Any) -> None:
    hooks.add("10-a")
    hooks.add("20-b", '[ "$AGENTD_ATTEMPT" -ge 3 ]')
    runner = new_runner(max_attempts=2)
    assert (await runner.run_claim()).state is ClaimState.FAILED
    runner.ledger.retry(runner.claim_id)
    assert (await runner.run_claim()).state is ClaimState.DONE
    assert hooks.runs() == ["10-a 1", "20-b 1", "20-b 2", "20-b 3"]


async def test_the_event_id_is_the_same_at_every_attempt(new_runner: Any, hooks: Any) -> None:
    hooks.add("10-a", '[ "$AGENTD_ATTEMPT" = 2 ]')
    runner = new_runner()
    await runner.run_claim()
    assert {line.split()[2] for line in hooks.trace.read_text().splitlines()} == {runner.claim_id}


async def test_the_environment_of_a_hook_names_the_claim_and_the_attempt(
    new_runner: Any, hooks: Any, state_dir: Path
) -> None:
    environment = hooks.root / "environment"
    hooks.add("10-a", f'env | grep ^AGENTD_ | grep -v RUN_ID | sort > "{environment}"')
    runner = new_runner()
    claim = await runner.run_claim()
    assert dict(line.split("=", 1) for line in environment.read_text().splitlines()) == {
        "AGENTD_EVENT_ID": claim.id,
        "AGENTD_ATTEMPT": "1",
        "AGENTD_HOOK": "10-a",
        "AGENTD_REASON": "prebuild_claimed",
        "AGENTD_WORKSPACE_ID": claim.workspace_id,
        "AGENTD_OWNER_ID": claim.owner_id,
        "AGENTD_STATE_DIR": str(state_dir),
    }


async def test_a_hook_that_others_may_write_is_refused_without_being_run(new_runner: Any, hooks: Any) -> None:
    hooks.add("10-a").chmod(0o777)
    runner = new_runner()
    claim = await runner.run_claim()
    assert claim.state is ClaimState.FAILED
    assert "may be written by other users" in claim.why
    assert "may be written by other users" in claim.hook("10-a").why
    assert hooks.runs() == []
    hooks.add("10-a")
    runner.ledger.retry(runner.claim_id)
    assert (await runner.run_claim()).state is ClaimState.DONE


async def test_a_hooks_directory_that_others_may_write_holds_the_claim(new_runner: Any, hooks: Any) -> None:
    hooks.add("10-a")
    hooks.directory.chmod(0o777)
    runner = new_runner()
    claim = await runner.run_claim()
    assert claim.state is ClaimState.HELD
    assert "may be written by other users" in claim.why
    assert hooks.runs() == []


async def interrupt(runner: RunnerWithClaim, hooks: Any) -> None:
    """Run the claim, and cancel that when the next hook has started."""
    running = asyncio.create_task(runner.run_claim())
    before = len(hooks.runs())
    while len(hooks.runs()) == before:
        await asyncio.sleep(0.005)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_hook_that_a_stop_interrupted_is_done_after_the_next_start(
    new_runner: Any, hooks: Any
) -> None:
    hooks.add("10-a", '[ "$AGENTD_ATTEMPT" = 2 ] || exec sleep 600')
    hooks.add("20-b")
    runner = new_runner()
    await interrupt(runner, hooks)
    hook = runner.ledger.claim(runner.claim_id).hook("10-a")
    assert (hook.state, hook.interruptions, hook.failures) == (HookState.INTERRUPTED, 1, 0)
    runner.ledger.close()
    assert (await new_runner().run_claim()).state is ClaimState.DONE
    assert hooks.runs() == ["10-a 1", "10-a 2", "20-b 1"]


async def test_with_on_interrupted_hold_an_interrupted_claim_is_held_until_retried(
    new_runner: Any, hooks: Any
) -> None:
    hooks.add("10-a", '[ "$AGENTD_ATTEMPT" = 2 ] || exec sleep 600')
    runner = new_runner(on_interrupted="hold")
    await interrupt(runner, hooks)
    claim = await runner.run_claim()
    assert (claim.state, claim.why) == (ClaimState.HELD, "hook 10-a was interrupted")
    runner.ledger.retry(runner.claim_id)
    assert (await runner.run_claim()).state is ClaimState.DONE


async def test_interruptions_do_not_count_as_attempts_and_are_limited(new_runner: Any, hooks: Any) -> None:
    hooks.add("10-a", "exec sleep 600")
    runner = new_runner(max_attempts=1)
    for _ in range(MAX_INTERRUPTIONS):
        await interrupt(runner, hooks)
    claim = await runner.run_claim()
    assert claim.state is ClaimState.HELD
    assert claim.why == f"hook 10-a was interrupted {MAX_INTERRUPTIONS} times"
    assert len(hooks.runs()) == MAX_INTERRUPTIONS


@pytest.mark.parametrize(
    "recorded", [True, False], ids=["pid recorded", "killed before the pid was recorded"]
)
async def test_a_hook_left_running_by_a_killed_agentd_is_ended_before_it_is_retried(
    new_runner: Any, hooks: Any, recorded: bool
) -> None:
    hooks.add("10-a")
    runner = new_runner()
    run_id = str(uuid.uuid4())  # searched on the whole machine
    runner.ledger.plan_hooks(runner.claim_id, ["10-a"])
    runner.ledger.start(runner.claim_id, "10-a", run_id)
    env = {"PATH": "/usr/bin:/bin", "AGENTD_RUN_ID": run_id}
    left = await asyncio.create_subprocess_exec("sleep", "600", env=env, start_new_session=True)
    if recorded:
        process = identify(left.pid)
        assert process is not None
        runner.ledger.spawned(runner.claim_id, "10-a", run_id, process)
    claim = await runner.run_claim()
    assert await left.wait() < 0
    assert claim.state is ClaimState.DONE
    assert hooks.runs() == ["10-a 2"], "attempt 1 was the run that agentd left"
    assert living(run_id, None) == []


async def test_a_removed_hook_is_skipped_and_a_removed_directory_holds_the_claim(
    new_runner: Any, hooks: Any
) -> None:
    hooks.add("10-a")
    hooks.add("20-b", '[ "$AGENTD_ATTEMPT" = 2 ] || exec sleep 600')
    runner = new_runner()
    await interrupt(runner, hooks)  # in 10-a or between 10-a and 20-b
    shutil.move(hooks.directory, hooks.root / "away")
    assert (await runner.run_claim()).state is ClaimState.HELD
    shutil.move(hooks.root / "away", hooks.directory)
    (hooks.directory / "20-b").unlink()
    runner.ledger.retry(runner.claim_id)
    claim = await runner.run_claim()
    assert claim.state is ClaimState.DONE
    assert claim.hook("20-b").state is HookState.SKIPPED
    assert not (hooks.root / ON_CLAIM / "20-b").exists()


async def test_a_hook_does_not_start_before_its_record_is_written(
    new_runner: Any, hooks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks.add("10-a")
    runner = new_runner()
    refused: list[int] = []

    def full(*_args: object) -> int:
        refused.append(1)
        assert hooks.runs() == [], "a hook does not run before its record"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ledger_file.os, "pwrite", full)
    running = asyncio.create_task(runner.run_claim())
    while len(refused) < 5:
        await asyncio.sleep(0.005)
    monkeypatch.undo()
    assert (await running).state is ClaimState.DONE
    assert hooks.runs() == ["10-a 1"]


async def test_a_success_is_recorded_after_the_disk_recovers_and_the_hook_runs_once(
    new_runner: Any, hooks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks.add("10-a")
    runner = new_runner()
    real, refused = os.pwrite, []

    def full_after_the_hook(fd: int, data: bytes, offset: int) -> int:
        if b'"succeed"' in data and len(refused) < 5:
            refused.append(1)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, offset)

    monkeypatch.setattr(ledger_file.os, "pwrite", full_after_the_hook)
    assert (await runner.run_claim()).state is ClaimState.DONE
    assert len(refused) == 5
    assert hooks.runs() == ["10-a 1"]


async def test_a_timed_out_hook_is_a_failed_attempt(new_runner: Any, hooks: Any) -> None:
    hooks.add("10-a", '[ "$AGENTD_ATTEMPT" = 2 ] || exec sleep 600')
    # Long enough for a shell to end on a busy machine.
    runner = new_runner(timeout_s=2.0, grace_s=0.2)
    claim = await runner.run_claim()
    assert claim.state is ClaimState.DONE
    assert (claim.hook("10-a").attempt, claim.hook("10-a").failures) == (2, 1)
    assert runner.runs("timed_out") == 1


async def test_the_activity_is_reported_while_hooks_run(new_runner: Any, hooks: Any) -> None:
    hooks.add("10-a", '[ "$AGENTD_ATTEMPT" = 2 ]')
    runner = new_runner()
    activities: list[str] = []
    runner.hook_runner.on_change = lambda: activities.append(runner.hook_runner.activity)
    await runner.run_claim()
    assert activities == [
        f"claim {runner.claim_id}",
        f"running hook 10-a of claim {runner.claim_id}, attempt 1",
        "waiting to run hook 10-a again",
        f"running hook 10-a of claim {runner.claim_id}, attempt 2",
        "",
    ]


async def test_ten_interleaved_claims_each_run_their_hooks_once(new_runner: Any, hooks: Any) -> None:
    hooks.add("10-a")
    runner = new_runner()
    owners = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(9)]
    ids = [runner.claim_id] + [
        runner.ledger.admit(ClaimEvent(EVENT.workspace_id, owner, EVENT.reason)).claim.id for owner in owners
    ]
    await asyncio.gather(*(runner.hook_runner.run_claim(claim_id) for claim_id in ids))
    assert sorted(line.split()[2] for line in hooks.trace.read_text().splitlines()) == sorted(ids)
    assert all(claim.state is ClaimState.DONE for claim in runner.ledger.all_claims())
