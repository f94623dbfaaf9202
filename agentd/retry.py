"""How agentd waits before it tries again: one backoff for streams that live for ever, one policy for bounded calls.

Delays are full jitter (uniform between the floor and a growing ceiling), because coderd's rate limit is counted per
address: a fleet behind one NAT that reconnects in step gets 429 in step.
"""

import random
from collections.abc import Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from agentd.clock import Clock


class Backoff:
    """Full-jitter windowed backoff, in seconds.

    `next()` draws uniformly from [floor_s, ceiling] where the ceiling doubles from `first_s` up to `cap_s`.
    `reset()` is called by the owner once the connection has proved itself, never merely because it was opened: a
    server that accepts and closes would otherwise be hammered.
    """

    def __init__(
        self, *, first_s: float, cap_s: float, floor_s: float, draw: Callable[[], float] = random.random
    ) -> None:
        if not 0 <= floor_s <= first_s <= cap_s:
            raise ValueError(f"backoff needs 0 <= floor {floor_s} <= first {first_s} <= cap {cap_s}")
        self._first_s = first_s
        self._cap_s = cap_s
        self._floor_s = floor_s
        self._draw = draw
        self.failures = 0

    def next(self) -> float:
        """Count a failure and return how long to wait before the next try."""
        # The exponent is bounded so that a daemon failing for years does not compute 2 ** 10**6.
        ceiling_s = min(self._cap_s, self._first_s * 2.0 ** min(self.failures, 64))
        self.failures += 1
        return self._floor_s + (ceiling_s - self._floor_s) * self._draw()

    def reset(self) -> None:
        """Forget the failures."""
        self.failures = 0


def until(
    deadline: float, *, clock: Clock, on: type[BaseException], first_s: float, cap_s: float, last_try_s: float
) -> AsyncRetrying:
    """How a bounded piece of work is tried: loop over the result, `with attempt:` around the work.

    Work that raises `on` is tried again until `deadline` (monotonic seconds), after full jitter with a ceiling that
    doubles from `first_s` to `cap_s`, or after what the error's `retry_after_s` asks for; one that asks for more than
    there is gets a last try `last_try_s` before the end. When time is up the last error is raised.
    """
    return AsyncRetrying(
        retry=retry_if_exception_type(on),
        stop=lambda _state: clock.monotonic() >= deadline,
        wait=_WithinDeadline(deadline, clock=clock, first_s=first_s, cap_s=cap_s, last_try_s=last_try_s),
        sleep=clock.sleep,
        reraise=True,
    )


class _WithinDeadline(wait_random_exponential):
    def __init__(
        self, deadline: float, *, clock: Clock, first_s: float, cap_s: float, last_try_s: float
    ) -> None:
        super().__init__(multiplier=first_s, max=cap_s)
        self._deadline = deadline
        self._clock = clock
        self._last_try_s = last_try_s

    def __call__(self, retry_state: RetryCallState) -> float:
        outcome = retry_state.outcome
        error = outcome.exception() if outcome is not None and outcome.failed else None
        asked_s: float = getattr(error, "retry_after_s", None) or 0.0
        last_chance_s = self._deadline - self._clock.monotonic() - self._last_try_s
        return max(super().__call__(retry_state), min(asked_s, last_chance_s))
