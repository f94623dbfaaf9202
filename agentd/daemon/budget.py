"""How a shutdown divides its one budget. The snapshot is safe on disk after the last look; delivery gets what is left."""

from typing import Final

REFRESH_SHARE: Final = 0.25
REFRESH_MAX_S: Final = 2.0
CLOSING_S: Final = 0.3
"""Kept back for closing the local API and answering whoever asked for the stop."""

DISK_SHARE: Final = 0.125
DISK_MAX_S: Final = 1.0

LAST_WORD_SHARE: Final = 0.1
LAST_WORD_MAX_S: Final = 1.0


def last_word_s(left_s: float) -> float:
    """What telling coderd that the workspace stops may take of `left_s`; delivery must leave it that."""
    return min(LAST_WORD_MAX_S, left_s * LAST_WORD_SHARE)


def disk_s(left_s: float) -> float:
    """Seconds of `left_s` to wait for the disk; delivery then starts from memory."""
    return min(DISK_MAX_S, left_s * DISK_SHARE)


def refresh_s(left_s: float) -> float:
    """What the last look at the agent may take of `left_s`."""
    return min(REFRESH_MAX_S, left_s * REFRESH_SHARE)
