"""Fixtures every room's tests share."""

import os
from pathlib import Path

import pytest
import structlog
from fakeclock import FakeClock

from agentd import log
from agentd.clock import Clock

DATA = Path(os.environ.get("AGENTD_TEST_DATA", Path(__file__).parents[1].parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def _own_logging(monkeypatch: pytest.MonkeyPatch):
    """Logging is the process's: what one test configures or conceals is none of the next one's business."""
    monkeypatch.setattr(log, "_secrets", set())
    monkeypatch.setattr(log, "_pattern", None)
    yield
    structlog.reset_defaults()


@pytest.fixture
def fake_clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def clock(fake_clock: FakeClock) -> Clock:
    return fake_clock.as_clock()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Recorded inputs that are not part of the project; tests that need them say so by taking this."""
    if not DATA.is_dir():
        pytest.skip("recorded inputs are not on this machine; set AGENTD_TEST_DATA to their folder")
    return DATA


@pytest.fixture(scope="session")
def conversations(data_dir: Path) -> list[Path]:
    """The transcripts of real agents, one `GET /messages` body each."""
    return sorted((data_dir / "conversations").glob("*.json"))
