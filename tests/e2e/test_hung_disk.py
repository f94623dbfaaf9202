"""A disk whose fsync, rename and write never return must not hold a stop, and must not silence the local API."""

import asyncio
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

COMPILER = shutil.which("cc") or shutil.which("gcc")
BUDGET_S = 2.0

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(COMPILER is None, reason="no C compiler to build the preloaded library with"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("hung") / "hung_disk.so"
    source = Path(__file__).with_name("hung_disk.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", path, source, "-ldl"], check=True)
    return path


class Disk:
    def __init__(self, mark, environ) -> None:
        self.mark = mark
        self.environ = environ

    def hang(self):
        self.mark.touch()


@pytest.fixture
def disk(testbed, library, tmp_path):
    mark = tmp_path / "hung"
    return Disk(
        mark,
        {
            "LD_PRELOAD": str(library),
            "HUNG_DISK": str(mark),
            "STATE_DIR": str(testbed.state_dir),
            "AGENTD_SHUTDOWN_BUDGET_S": str(BUDGET_S),
            "AGENTD_SNAPSHOTS_UPLOAD": "stop",
        },
    )


async def talked(testbed, disk):
    """A daemon that has stored a conversation, whose disk then hangs while the agent says more."""
    daemon = await testbed.start(**disk.environ)
    testbed.agent.add_message("user", "hello")
    await daemon.log("snapshot.spooled", where=lambda line: line["messages"] >= 2)
    disk.hang()
    testbed.agent.add_message("agent", "my last words")
    return daemon


async def stopped(daemon):
    """The exit code, and how long the stop took."""
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)
    code = await daemon.exit_code()
    return code, time.monotonic() - began


async def test_the_last_message_is_delivered_within_the_budget(testbed, disk):
    daemon = await talked(testbed, disk)
    code, took_s = await stopped(daemon)
    assert testbed.stored()[-1]["content"] == "my last words"
    assert code == 0
    assert took_s <= BUDGET_S + 1
    forced = await daemon.log("agentd.exit_forced")
    assert forced["exit_code"] == 0
    assert [line["event"] for line in daemon.lines].count("agentd.exit_forced") == 1


async def test_with_coderd_down_as_well_the_exit_code_says_that_something_is_undelivered(testbed, disk):
    daemon = await talked(testbed, disk)
    await testbed.coderd.stop()
    code, took_s = await stopped(daemon)
    assert code == 75
    assert took_s <= BUDGET_S + 1


async def test_the_local_api_answers_while_the_disk_hangs_and_during_the_stop(testbed, disk):
    daemon = await talked(testbed, disk)
    await asyncio.sleep(0.3)
    async with asyncio.timeout(2):
        assert (await daemon.ask("/v1/status"))["agent"]["status"] in ("settling", "stable")
        for _ in range(20):
            assert await daemon.ask("/v1/claims") == {"claims": []}
    testbed.coderd.fault("log-snapshot", "no_headers", times=100)
    daemon.signal(signal.SIGTERM)
    async with asyncio.timeout(1):
        while (await daemon.ask("/v1/status"))["phase"] == "running":
            await asyncio.sleep(0.01)
    await daemon.exit_code()


async def test_a_second_signal_ends_a_stop_that_waits_for_the_disk(testbed, disk):
    daemon = await talked(testbed, disk)
    testbed.coderd.fault("log-snapshot", "no_headers", times=100)
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)
    await daemon.log("agentd.stopping")
    daemon.signal(signal.SIGTERM)
    assert await daemon.exit_code() == 75
    assert time.monotonic() - began < BUDGET_S
    await daemon.log("agentd.shutdown_skipped")


async def test_a_disk_that_hangs_from_the_start_delays_neither_the_api_nor_the_stop(testbed, disk):
    testbed.state_dir.mkdir(mode=0o700)
    disk.hang()
    daemon = await testbed.launch(**disk.environ)
    async with asyncio.timeout(10):
        await daemon.log("agentd.started")
    testbed.agent.add_message("agent", "my last words")
    await daemon.log("agent.status")
    code, took_s = await stopped(daemon)
    assert testbed.stored()[-1]["content"] == "my last words"
    assert (code, took_s <= BUDGET_S + 1) == (0, True)


async def test_after_a_hung_disk_the_next_start_finds_a_whole_state(testbed, disk):
    daemon = await talked(testbed, disk)
    await stopped(daemon)
    disk.mark.unlink()
    daemon = await testbed.start()
    assert (await daemon.ask("/v1/status"))["snapshot"]["messages"] >= 2
    assert await daemon.stop() == 0
