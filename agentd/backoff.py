"""Backoff with full jitter, for connections that are retried without a limit. `retry` is for bounded work.

Each delay is uniform between a floor and a growing ceiling. Without jitter a fleet behind one NAT would
reconnect at the same moment and get 429, because coderd counts its rate limit per address.
"""

import random
from collections.abc import Callable


class Backoff:
    """Exponential backoff with full jitter. All values are in seconds.

    `next()` draws uniformly from [floor_s, ceiling]; the ceiling doubles from `first_s` up to `cap_s`. Call
    `reset()` after a success, not when a connection opens: a server may accept and close at once.
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
        """Count a failure and return the delay before the next try."""
        # Limit the exponent: after years of failures 2.0 ** failures would overflow.
        ceiling_s = min(self._cap_s, self._first_s * 2.0 ** min(self.failures, 64))
        self.failures += 1
        return self._floor_s + (ceiling_s - self._floor_s) * self._draw()

    def reset(self) -> None:
        """Set the failure count to zero."""
        self.failures = 0
