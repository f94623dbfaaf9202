"""Fixtures and options for all tests: logging, fake time, recorded inputs, the seed of random tests."""

import logging
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from fakeclock import FakeClock
from hypothesis import HealthCheck, settings

from agentd import masking
from agentd.clock import Clock

DEFAULT_SEED = 4
_STARTED = time.monotonic()

# A deadline or a health check that measures time fails on a busy machine.
_UNTIMED = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, **_UNTIMED)
settings.register_profile("fuzz", derandomize=False, max_examples=500, **_UNTIMED)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("agentd")
    group.addoption(
        "--seed", type=int, default=DEFAULT_SEED, help="seed of the tests that draw random numbers"
    )
    group.addoption("--skip-after", type=float, metavar="SECONDS", help="skip the tests that start later")


def pytest_report_header(config: pytest.Config) -> str:
    return f"random tests: --seed={config.getoption('seed')}, hypothesis profile {settings.get_current_profile_name()}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        drawn = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        if drawn or "seed" in getattr(item, "fixturenames", ()):
            item.add_marker("property")
    if config.getoption("skip_after") is not None:
        # Another order for each seed, so that a short time is not always spent on the same tests.
        random.Random(config.getoption("seed")).shuffle(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = item.config.getoption("skip_after")
    if limit is not None and time.monotonic() - _STARTED > limit:
        pytest.skip("the time is over")


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    """The seed of a test that draws random numbers. The header and the report of a failure have it."""
    value: int = pytestconfig.getoption("seed")
    print(f"--seed={value}")
    return value


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Restore the logging configuration and the registered secrets after each test: both belong to the process."""
    handlers, level = logging.root.handlers[:], logging.root.level
    masking._registry.clear()
    yield
    masking._registry.clear()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def fake_clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def clock(fake_clock: FakeClock) -> Clock:
    return fake_clock.as_clock()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of recorded inputs, which are not part of the project. Skips the test if there is none."""
    folder = os.environ.get("AGENTD_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no recorded inputs; set AGENTD_TEST_DATA to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def conversations(data_dir: Path) -> list[Path]:
    """The transcripts of real agents, one `GET /messages` body each."""
    return sorted((data_dir / "conversations").glob("*.json"))
