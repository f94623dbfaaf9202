"""Retries with a deadline. `backoff` is for connections that are retried without a limit."""

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from agentd.clock import Clock


def until(
    deadline: float, *, clock: Clock, on: type[BaseException], first_s: float, cap_s: float, last_try_s: float
) -> AsyncRetrying:
    """Retry work that raises `on` until `deadline` (monotonic seconds), then raise the last error.

        async for attempt in retry.until(deadline, clock=clock, on=RetryableError, ...):
            with attempt:
                await work()

    The delay has full jitter, with a ceiling that doubles from `first_s` to `cap_s`. It is at least the
    error's `retry_after_s`, but the last try starts `last_try_s` before the deadline.
    """
    backoff = wait_random_exponential(multiplier=first_s, max=cap_s)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked_s: float = getattr(error, "retry_after_s", None) or 0.0
        last_chance_s = deadline - clock.monotonic() - last_try_s
        return max(backoff(state), min(asked_s, last_chance_s))

    return AsyncRetrying(
        retry=retry_if_exception_type(on),
        stop=lambda _state: clock.monotonic() >= deadline,
        wait=wait,
        sleep=clock.sleep,
        reraise=True,
    )
