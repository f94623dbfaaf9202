"""How a shutdown divides its one budget. The snapshot is safe on disk after the last look; delivery gets what is left."""

from typing import Final

REFRESH_SHARE: Final = 0.25
REFRESH_MAX_S: Final = 2.0
CLOSING_S: Final = 0.3
"""Kept back for closing the local API and answering whoever asked for the stop."""


def refresh_s(left_s: float) -> float:
    """What the last look at the agent may take of `left_s`."""
    return min(REFRESH_MAX_S, left_s * REFRESH_SHARE)
