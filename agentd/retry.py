"""How agentd waits before it tries again: one backoff for streams that live for ever, one policy for bounded calls.

Delays are full jitter (uniform between the floor and a growing ceiling), because coderd's rate limit is counted per
address: a fleet behind one NAT that reconnects in step gets 429 in step.
"""

import random
from collections.abc import Callable

from tenacity import RetryCallState, wait_random_exponential


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


class wait_server_or_jitter(wait_random_exponential):  # noqa: N801 - tenacity names its waits like functions
    """Tenacity wait: full jitter, after what the server asked for (`retry_after_s` of the error, bounded).

    The jitter comes on top, since a server that is overrun tells everybody the same number.
    """

    def __init__(self, *, first_s: float, cap_s: float, server_cap_s: float = 300.0) -> None:
        super().__init__(multiplier=first_s, max=cap_s)
        self._server_cap_s = server_cap_s

    def __call__(self, retry_state: RetryCallState) -> float:
        outcome = retry_state.outcome
        error = outcome.exception() if outcome is not None and outcome.failed else None
        asked_s: float | None = getattr(error, "retry_after_s", None)
        jitter_s = super().__call__(retry_state)
        if asked_s is None:
            return jitter_s
        return min(max(asked_s, 0.0), self._server_cap_s) + jitter_s
