"""Fixtures for the tests of every package."""

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
    """Reset the logging of the process after each test."""
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
    """Recorded inputs, which are not part of the project. A test that uses this fixture is skipped without them."""
    if not DATA.is_dir():
        pytest.skip("recorded inputs are not on this machine; set AGENTD_TEST_DATA to their directory")
    return DATA


@pytest.fixture(scope="session")
def conversations(data_dir: Path) -> list[Path]:
    """Conversations of real agents; each file is the body of one `GET /messages`."""
    return sorted((data_dir / "conversations").glob("*.json"))
