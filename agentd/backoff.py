"""How long a stream that lives for ever waits before it tries again.

Delays are full jitter (uniform between the floor and a growing ceiling), because coderd's rate limit is counted per
address: a fleet behind one NAT that reconnects in step gets 429 in step.
"""

import random
from collections.abc import Callable


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
