"""Act on one claim: its hooks in name order, each recorded before it starts and when it ends, until done or visibly not.

The same walk serves a new claim, one that a stopped or killed agentd left in the middle, and one a person retries:
end what is left of an interrupted hook, list the hooks, run the next one that has not succeeded. Coder restarts its
scripts at a claim, so being stopped in the middle of a hook is the normal case, not the odd one.

Three counts bound it. Failures (exit code, signal, timeout, cannot be started) are bounded by `max_attempts`.
Interruptions are agentd's own ends, so they do not eat attempts; but a hook that takes the workspace down with it
would be started at every boot for ever, so after `MAX_INTERRUPTIONS` the claim is held. Time is bounded per run.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from agentd import log
from agentd.backoff import Backoff
from agentd.claims.ledger import Ledger, LedgerWriteError
from agentd.claims.ledger_state import Claim, Hook
from agentd.claims.lifecycle import ClaimStep, HookState, HookStep
from agentd.clock import Clock
from agentd.hooks.directory import ON_CLAIM, HookDirectoryError, Listing, listing, untrusted_reason
from agentd.hooks.processes import end_run
from agentd.hooks.run import Ended, HookRun, HookSurvivedError, Outcome, environment
from agentd.metrics import Registry
from agentd.proc import ProcessIdentity

MAX_INTERRUPTIONS = 20

# What an outcome means for the ledger; any other is a failure.
_STEPS = {Outcome.SUCCEEDED: HookStep.SUCCEED, Outcome.INTERRUPTED: HookStep.INTERRUPT}


class HookPolicy(NamedTuple):
    """How hooks are run. Seconds throughout; `on_interrupted` says what follows an agentd that ended in mid-hook."""

    hooks_dir: Path
    state_dir: Path
    timeout_s: float = 300.0
    max_attempts: int = 3
    on_interrupted: Literal["retry", "hold"] = "retry"
    pass_token: bool = False
    grace_s: float = 5.0
    stop_grace_s: float = 1.5


class HookRunner:
    """Runs the hooks of claims, one at a time. `environ` is the daemon's own environment."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        policy: HookPolicy,
        clock: Clock,
        metrics: Registry,
        environ: Mapping[str, str],
    ) -> None:
        self._ledger = ledger
        self._policy = policy
        self._clock = clock
        self._environ = environ
        self._log = log.get("claims")
        self._runs = metrics.counter("agentd_hook_runs_total", "Hook runs by how they ended.", "outcome")
        self.on_change: Callable[[], None] = lambda: None
        """Told whenever `doing` changes."""
        self.doing = ""
        """What is happening, in words for `/v1/status`; "" when nothing is."""
        self.next_attempt_at: float | None = None
        """When the next try is due (Unix seconds), while waiting for one."""

    async def run_claim(self, claim_id: str) -> Claim:
        """Take the claim as far as it goes; the result is settled. Cancelled, the running hook is ended and recorded so."""
        self._do(f"claim {claim_id}")
        try:
            claim = await self._without_leftover(self._ledger.claim(claim_id))
            claim = await self._unless_held(claim)
            claim = await self._planned(claim)
            while not claim.is_final and (hook := claim.next_hook) is not None:
                claim = await self._attempted(claim, hook)
            return claim if claim.is_final else await self._settled(claim, ClaimStep.FINISH, "")
        finally:
            self.next_attempt_at = None
            self._do("")

    def _do(self, what: str) -> None:
        self.doing = what
        self.on_change()

    async def _without_leftover(self, claim: Claim) -> Claim:
        """A hook that is recorded as started has no agentd any more: end what is left of it, then say so."""
        hook = claim.started_hook
        if hook is None or claim.is_final:
            return claim
        self._do(f"ending what is left of hook {hook.name} of claim {claim.id}")
        gone = await end_run(hook.run_id, hook.process, clock=self._clock, grace_s=self._policy.grace_s)
        if not gone:
            why = f"an earlier run of hook {hook.name} cannot be ended"
            return await self._settled(claim, ClaimStep.HOLD, why)
        ended = Ended(Outcome.INTERRUPTED, None, "agentd ended while it ran")
        return await self._ended(claim, hook, ended)

    async def _unless_held(self, claim: Claim) -> Claim:
        """What the operator wants after an interruption, be it a polite stop or a kill -9."""
        hook = claim.next_hook
        if (
            claim.is_final
            or hook is None
            or hook.state is not HookState.INTERRUPTED
            or not hook.interruptions
        ):
            return claim  # nothing was interrupted, or a person has said "retry" since
        if self._policy.on_interrupted == "hold":
            return await self._settled(claim, ClaimStep.HOLD, f"hook {hook.name} was interrupted")
        if hook.interruptions >= MAX_INTERRUPTIONS:
            why = f"hook {hook.name} was interrupted {hook.interruptions} times"
            return await self._settled(claim, ClaimStep.HOLD, why)
        return claim

    async def _planned(self, claim: Claim) -> Claim:
        if claim.is_final:
            return claim
        try:
            found = await asyncio.to_thread(listing, self._policy.hooks_dir / ON_CLAIM)
        except HookDirectoryError as exc:
            return await self._settled(claim, ClaimStep.HOLD, str(exc))
        if not found.exists and claim.next_hook is not None:
            # A volume that is not mounted yet looks the same; skipping the rest would lose the claim in silence.
            why = f"hooks directory {self._policy.hooks_dir / ON_CLAIM} is gone"
            return await self._settled(claim, ClaimStep.HOLD, why)
        self._say_what_is_passed_over(found)
        return await self._durably(lambda: self._ledger.plan_hooks(claim.id, found.names))

    async def _attempted(self, claim: Claim, hook: Hook) -> Claim:
        """One run of `hook`, recorded on both sides, and the pause after a failure."""
        path = self._policy.hooks_dir / ON_CLAIM / hook.name
        run_id = secrets.token_hex(12)
        claim = await self._durably(lambda: self._ledger.start(claim.id, hook.name, run_id))
        hook = claim.hook(hook.name)
        self._do(f"hook {hook.name} of claim {claim.id}, attempt {hook.attempt}")
        self._log.info("hook.started", claim=claim.id, hook=hook.name, attempt=hook.attempt)
        distrust = await asyncio.to_thread(untrusted_reason, path)
        if distrust:
            # Waiting makes it no safer, so no attempt is left after this one.
            claim = await self._ended(claim, hook, Ended(Outcome.REFUSED, None, f"refused: {distrust}"))
            return await self._settled(claim, ClaimStep.FAIL, f"hook {hook.name} is refused: {distrust}")
        try:
            claim = await self._run(claim, hook, path)
        except HookSurvivedError as exc:
            return await self._settled(claim, ClaimStep.HOLD, str(exc))
        hook = claim.hook(hook.name)
        if hook.state is not HookState.FAILED:
            return claim
        if hook.failures >= self._policy.max_attempts:
            why = f"hook {hook.name} failed {hook.failures} times, last: {hook.why}"
            return await self._settled(claim, ClaimStep.FAIL, why)
        await self._pause(hook)
        return claim

    async def _run(self, claim: Claim, hook: Hook, path: Path) -> Claim:
        policy = self._policy
        run = HookRun(
            path,
            env=self._told(claim, hook),
            run_id=hook.run_id,
            timeout_s=policy.timeout_s,
            grace_s=policy.grace_s,
            stop_grace_s=policy.stop_grace_s,
            clock=self._clock,
        )

        async def record_process(process: ProcessIdentity | None) -> None:
            if process is None:
                return  # over already; its run id is enough
            try:
                await _uninterrupted(lambda: self._ledger.spawned(claim.id, hook.name, hook.run_id, process))
            except LedgerWriteError as exc:
                # The run id stands in the ledger since before the start; the pid only helps against washed environments.
                self._log.warning("hook.pid_not_recorded", claim=claim.id, hook=hook.name, error=str(exc))

        try:
            ended = await run.execute(record_process)
        except asyncio.CancelledError:
            ended = Ended(Outcome.INTERRUPTED, None, "agentd was stopped while it ran")
            await self._ended_if_writable(claim, hook, ended, run.tail)
            raise
        return await self._ended(claim, hook, ended, run.tail)

    def _told(self, claim: Claim, hook: Hook) -> dict[str, str]:
        told = environment(
            self._environ,
            hook=hook.name,
            reason=claim.reason,
            workspace_id=claim.workspace_id,
            state_dir=self._policy.state_dir,
            run_id=hook.run_id,
            pass_token=self._policy.pass_token,
        )
        return told | {
            "AGENTD_EVENT_ID": claim.id,
            "AGENTD_ATTEMPT": str(hook.attempt),
            "AGENTD_OWNER_ID": claim.owner_id or "",
        }

    async def _pause(self, hook: Hook) -> None:
        backoff = Backoff(first_s=1.0, cap_s=30.0, floor_s=0.5)
        backoff.failures = hook.failures - 1
        pause_s = backoff.next()
        self._do(f"waiting to run hook {hook.name} again")
        self.next_attempt_at = self._clock.wall() + pause_s
        await self._clock.sleep(pause_s)
        self.next_attempt_at = None

    async def _ended(self, claim: Claim, hook: Hook, ended: Ended, tail: str = "") -> Claim:
        self._say_how_it_ended(claim, hook, ended)
        return await self._durably(self._end_record(claim, hook, ended, tail))

    async def _ended_if_writable(self, claim: Claim, hook: Hook, ended: Ended, tail: str) -> None:
        """At a stop there is no time to wait for a disk; an unrecorded end is an interruption at the next start anyway."""
        self._say_how_it_ended(claim, hook, ended)
        try:
            await _uninterrupted(self._end_record(claim, hook, ended, tail))
        except LedgerWriteError as exc:
            self._log.error("ledger.unwritable", error=str(exc))

    def _end_record(self, claim: Claim, hook: Hook, ended: Ended, tail: str) -> Callable[[], Claim]:
        step = _STEPS.get(ended.outcome, HookStep.FAIL)
        return lambda: self._ledger.end(
            claim.id, hook.name, hook.run_id, step, exit_code=ended.exit_code, why=ended.why, tail=tail
        )

    async def _settled(self, claim: Claim, step: ClaimStep, why: str) -> Claim:
        claim = await self._durably(lambda: self._ledger.settle(claim.id, step, why))
        say = self._log.info if step is ClaimStep.FINISH else self._log.error
        say(f"claim.{claim.state.value}", claim=claim.id, **({"reason": why} if why else {}))
        return claim

    async def _durably(self, write: Callable[[], Claim]) -> Claim:
        """Make the record, however long the disk takes to have room for it: what follows it must not happen before."""
        backoff = Backoff(first_s=1.0, cap_s=30.0, floor_s=0.5)
        while True:
            try:
                claim = await _uninterrupted(write)
            except LedgerWriteError as exc:
                if not backoff.failures:
                    self._log.error("ledger.unwritable", error=str(exc))
                await self._clock.sleep(backoff.next())
            else:
                if backoff.failures:
                    self._log.info("ledger.writable_again", failures=backoff.failures)
                return claim

    def _say_how_it_ended(self, claim: Claim, hook: Hook, ended: Ended) -> None:
        self._runs.inc(outcome=ended.outcome)
        facts = {"claim": claim.id, "hook": hook.name, "attempt": hook.attempt}
        if ended.succeeded:
            self._log.info("hook.succeeded", **facts)
        else:
            self._log.warning(f"hook.{ended.outcome}", **facts, reason=ended.why)

    def _say_what_is_passed_over(self, found: Listing) -> None:
        for name, why in found.passed_over:
            self._log.warning("hook.passed_over", file=name, reason=why)


async def _uninterrupted(write: Callable[[], Claim]) -> Claim:
    """Run `write` in a thread and wait for its end even when cancelled: half a write has no meaning to the one above."""
    writing = asyncio.ensure_future(asyncio.to_thread(write))
    try:
        return await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        if not writing.cancelled():
            writing.exception()  # looked at, so that it is not reported as lost
        raise
