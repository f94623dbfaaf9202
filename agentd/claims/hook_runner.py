"""Runs the hooks of one claim in name order until the claim is done, failed or held.

The promise is at-least-once: a hook starts at least once and never again after its success is recorded. If
the machine dies between a hook's exit and its record, the hook runs again, so hooks should be idempotent.

The same function serves a new claim, a claim that a stopped or killed agentd left unfinished, and one that an
operator retries. Coder restarts its scripts at a claim, so a stop in the middle of a hook is a normal case.

Failures (exit code, signal, timeout, cannot be started) are limited by `max_attempts`. A run that ends
because agentd ends is an interruption and does not count as a failure. Interruptions are limited by
`MAX_INTERRUPTIONS`, because a hook that takes the workspace down would otherwise start again at each boot.
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import Final, Literal, ParamSpec

from agentd import log
from agentd.backoff import Backoff
from agentd.claims.claim import Claim, Hook
from agentd.claims.ledger import Ledger
from agentd.claims.ledger_file import LedgerWriteError
from agentd.claims.lifecycle import ClaimState, ClaimStep, HookState, HookStep
from agentd.clock import Clock
from agentd.hooks.directory import ON_CLAIM, HookDirectoryError, list_hooks
from agentd.hooks.processes import end_run
from agentd.hooks.run import HookOutcome, HookPolicy, HookResult, HookRun, HookSurvivedError
from agentd.metrics import Registry
from agentd.proc import ProcessIdentity

MAX_INTERRUPTIONS: Final = 20

# Every other outcome is the step `fail`.
_STEPS: Final = {HookOutcome.SUCCEEDED: HookStep.SUCCEED, HookOutcome.INTERRUPTED: HookStep.INTERRUPT}

_P = ParamSpec("_P")


class _HoldError(Exception):
    """The claim must be held for this reason."""


class _FailError(Exception):
    """The claim has failed for this reason."""


class HookRunner:
    """Runs the hooks of claims. `on_interrupted`: what follows if agentd ended while a hook was running."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        policy: HookPolicy,
        clock: Clock,
        metrics: Registry,
        max_attempts: int = 3,
        on_interrupted: Literal["retry", "hold"] = "retry",
    ) -> None:
        self._ledger = ledger
        self._policy = policy
        self._clock = clock
        self._max_attempts = max_attempts
        self._on_interrupted = on_interrupted
        self._log = log.get("claims")
        self._runs = metrics.counter("agentd_hook_runs_total", "Hook runs by how they ended.", "outcome")
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change of `activity`."""
        self.activity = ""
        """What runs now, as text for `/v1/status`; "" between claims."""
        self.next_attempt_at: float | None = None
        """When a failed hook runs again (Unix seconds); None unless one waits."""

    async def run_claim(self, claim_id: str) -> Claim:
        """Run the hooks that have not succeeded and return the claim: done, failed or held.

        Each ledger transition is durable before the next action. When cancelled, ends the running hook and
        records an interruption. Raises `UnknownClaimError`.
        """
        ledger, record = self._ledger, self._record
        claim = ledger.claim(claim_id)
        if claim.is_final:
            return claim
        self._set_activity(f"claim {claim_id}")
        try:
            if (hook := claim.started_hook) is not None:
                await self._end_left_processes(claim, hook)
                interrupted = _interrupted("agentd exited while the hook was running")
                claim = await self._record_end(claim, hook, interrupted)
            self._check_interruptions(claim)
            claim = await record(ledger.plan_hooks, claim_id, await self._hook_names(claim))
            while (planned := claim.next_hook) is not None:
                claim = await record(ledger.start, claim_id, planned.name, secrets.token_hex(12))
                hook = claim.hook(planned.name)
                result = await self._run(claim, hook)
                claim = await self._record_end(claim, hook, result)
                self._check_attempts(claim.hook(hook.name), result)
                await self._pause_after_failure(claim.hook(hook.name))
            claim = await record(ledger.settle, claim_id, ClaimStep.FINISH)
        except (HookDirectoryError, HookSurvivedError, _HoldError) as exc:
            claim = await record(ledger.settle, claim_id, ClaimStep.HOLD, str(exc))
        except _FailError as exc:
            claim = await record(ledger.settle, claim_id, ClaimStep.FAIL, str(exc))
        finally:
            self.next_attempt_at = None
            self._set_activity("")
        log_it = self._log.info if claim.state is ClaimState.DONE else self._log.error
        log_it(f"claim.{claim.state.value}", claim=claim.id, **({"reason": claim.why} if claim.why else {}))
        return claim

    def _set_activity(self, activity: str) -> None:
        self.activity = activity
        self.on_change()

    async def _end_left_processes(self, claim: Claim, hook: Hook) -> None:
        """End the processes of a run whose agentd has exited."""
        self._set_activity(f"ending processes of an earlier run of hook {hook.name} of claim {claim.id}")
        if not await end_run(hook.run_id, hook.process, clock=self._clock, grace_s=self._policy.grace_s):
            raise _HoldError(f"processes of an earlier run of hook {hook.name} could not be killed")

    def _check_interruptions(self, claim: Claim) -> None:
        """Hold the claim if its next hook was interrupted and the policy or the limit forbids another run."""
        hook = claim.next_hook
        # `agentd claims retry` resets the count, so that an interrupted hook may run again.
        if hook is None or hook.state is not HookState.INTERRUPTED or not hook.interruptions:
            return
        if self._on_interrupted == "hold":
            raise _HoldError(f"hook {hook.name} was interrupted")
        if hook.interruptions >= MAX_INTERRUPTIONS:
            raise _HoldError(f"hook {hook.name} was interrupted {hook.interruptions} times")

    async def _hook_names(self, claim: Claim) -> tuple[str, ...]:
        directory = self._policy.hooks_dir / ON_CLAIM
        found = await asyncio.to_thread(list_hooks, directory)
        if not found.exists and claim.next_hook is not None:
            # A volume that is not mounted yet looks the same. Skipping the hooks would lose them silently.
            raise _HoldError(
                f"hooks directory {directory} is gone, and claim {claim.id} still has hooks to run"
            )
        for name, why in found.skipped:
            self._log.warning("hook.passed_over", file=name, reason=why)
        return found.names

    async def _run(self, claim: Claim, hook: Hook) -> HookResult:
        """One run of `hook`. When cancelled, records the interruption and passes the cancellation on."""
        self._set_activity(f"running hook {hook.name} of claim {claim.id}, attempt {hook.attempt}")
        self._log.info("hook.started", claim=claim.id, hook=hook.name, attempt=hook.attempt)
        path = self._policy.hooks_dir / ON_CLAIM / hook.name
        env = {
            **self._policy.environment(
                hook=hook.name, reason=claim.reason, workspace_id=claim.workspace_id, run_id=hook.run_id
            ),
            "AGENTD_EVENT_ID": claim.id,
            "AGENTD_ATTEMPT": str(hook.attempt),
            "AGENTD_OWNER_ID": claim.owner_id or "",
        }
        run = HookRun(path, policy=self._policy, env=env, clock=self._clock)

        async def record_process(process: ProcessIdentity) -> None:
            try:
                await _finish_write(lambda: self._ledger.spawned(claim.id, hook.name, hook.run_id, process))
            except LedgerWriteError as exc:
                # The run id is recorded. The pid is needed only if the hook removes it from its environment.
                self._log.warning("hook.pid_not_recorded", claim=claim.id, hook=hook.name, error=str(exc))

        try:
            return await run.execute(record_process)
        except asyncio.CancelledError:
            interrupted = _interrupted("agentd was stopped while the hook was running", run.tail)
            self._log_result(claim, hook, interrupted)
            try:
                await _finish_write(lambda: self._end(claim, hook, interrupted))
            except LedgerWriteError as exc:
                # A stop cannot wait for a disk. The next start records the missing end as an interruption.
                self._log.error("ledger.unwritable", error=str(exc))
            raise

    def _check_attempts(self, hook: Hook, result: HookResult) -> None:
        """Fail the claim if another attempt is not allowed or has no prospect."""
        if result.outcome is HookOutcome.REFUSED:
            raise _FailError(f"hook {hook.name} is {result.why}")
        if hook.state is HookState.FAILED and hook.failures >= self._max_attempts:
            raise _FailError(f"hook {hook.name} failed {hook.failures} times, last: {hook.why}")

    async def _pause_after_failure(self, hook: Hook) -> None:
        if hook.state is not HookState.FAILED:
            return
        backoff = _new_backoff()
        backoff.failures = hook.failures - 1
        pause_s = backoff.next()
        self._set_activity(f"waiting to run hook {hook.name} again")
        self.next_attempt_at = self._clock.wall() + pause_s
        await self._clock.sleep(pause_s)
        self.next_attempt_at = None

    async def _record_end(self, claim: Claim, hook: Hook, result: HookResult) -> Claim:
        self._log_result(claim, hook, result)
        return await self._record(self._end, claim, hook, result)

    def _end(self, claim: Claim, hook: Hook, result: HookResult) -> Claim:
        _, exit_code, why, tail = result
        step = _STEPS.get(result.outcome, HookStep.FAIL)
        run = (claim.id, hook.name, hook.run_id)
        return self._ledger.end(*run, step, exit_code=exit_code, why=why, tail=tail)

    async def _record(self, write: Callable[_P, Claim], *args: _P.args, **kwargs: _P.kwargs) -> Claim:
        """Write one ledger record; retry with backoff while the disk refuses it."""
        backoff = _new_backoff()
        while True:
            try:
                claim = await _finish_write(lambda: write(*args, **kwargs))
            except LedgerWriteError as exc:
                if not backoff.failures:
                    self._log.error("ledger.unwritable", error=str(exc))
                await self._clock.sleep(backoff.next())
            else:
                if backoff.failures:
                    self._log.info("ledger.writable_again", failures=backoff.failures)
                return claim

    def _log_result(self, claim: Claim, hook: Hook, result: HookResult) -> None:
        self._runs.inc(outcome=result.outcome)
        result.log(self._log, claim=claim.id, hook=hook.name, attempt=hook.attempt)


def _interrupted(why: str, tail: str = "") -> HookResult:
    return HookResult(HookOutcome.INTERRUPTED, None, why, tail)


def _new_backoff() -> Backoff:
    return Backoff(first_s=1.0, cap_s=30.0, floor_s=0.5)


async def _finish_write(write: Callable[[], Claim]) -> Claim:
    """Run `write` in a thread and wait for its result, also when cancelled: the write may have happened."""
    writing = asyncio.ensure_future(asyncio.to_thread(write))
    try:
        return await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        if not writing.cancelled():
            writing.exception()  # retrieved, or asyncio logs that it was not
        raise
