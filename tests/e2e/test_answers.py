"""What the real daemon reports: the last stop, a drill of the next one, and the doctor's findings."""

import asyncio
import json

import pytest

from agentd.daemon import last_stop
from agentd.daemon.last_stop import RunState

pytestmark = pytest.mark.e2e


async def test_a_drill_reports_the_daemons_parts_and_neither_stops_it_nor_uploads(testbed):
    testbed.agent.add_message("user", "hello")
    daemon = await testbed.start(AGENTD_SNAPSHOTS_UPLOAD="stop")
    await daemon.status_until(lambda s: s["snapshot"]["messages"], what="a snapshot")
    result = await testbed.run("drill", "--json", AGENTD_SHUTDOWN_GRACE_S="30")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert {part["name"]: part["outcome"] for part in report["parts"]} == {
        "refresh": "done", "fit": "done", "spool": "done", "upload": "done",
    }  # fmt: skip
    assert report["grace_s"] == 30
    assert testbed.stored() == []
    assert await daemon.stop() == 0
    assert len(testbed.stored()) == 2


async def test_the_next_start_reports_a_kill_and_not_a_clean_stop(testbed):
    daemon = await testbed.start()
    assert (await daemon.ask("/v1/status"))["last_stop"] is None
    await daemon.kill()
    second = await testbed.start()
    line = await second.log("agentd.last_run_not_stopped")
    assert line["ended"] == "killed"
    assert (await second.ask("/v1/status"))["last_stop"]["ended"] == "killed"
    assert await second.stop() == 0
    third = await testbed.start()
    status = await third.ask("/v1/status")
    assert (status["last_stop"]["ended"], status["last_stop"]["reason"]) == ("in_order", "SIGTERM")
    assert "agentd.last_run_not_stopped" not in [line["event"] for line in third.lines]


async def test_the_next_start_reports_a_stop_that_was_killed(testbed):
    testbed.agent.add_message("user", "hello")
    testbed.coderd.fault("log-snapshot", "no_headers", times=100)
    daemon = await testbed.start(AGENTD_SNAPSHOTS_UPLOAD="stop")
    await daemon.status_until(lambda s: s["snapshot"]["messages"], what="a snapshot")
    daemon.signal(15)
    # The upload hangs, so that the stop lasts until its budget ends.
    await testbed.coderd.until(lambda: bool(testbed.coderd.calls("log-snapshot")))
    while last_stop.read(testbed.state_dir).state is not RunState.STOPPING:
        await asyncio.sleep(0.01)
    await daemon.kill()
    testbed.coderd.clear_faults()
    second = await testbed.start()
    line = await second.log("agentd.last_run_not_stopped")
    assert (line["ended"], line["reason"], line["budget_s"]) == ("cut_off", "SIGTERM", 10)


async def test_a_shutdown_budget_above_the_stop_timeout_is_warned_of_and_a_default_one_shrinks(testbed):
    daemon = await testbed.start(AGENTD_SHUTDOWN_GRACE_S="4")
    line = await daemon.log("shutdown.grace_short")
    assert (line["budget_s"], line["grace_s"]) == (10, 4)
    assert await daemon.stop() == 0
    unchosen = await testbed.start(AGENTD_SHUTDOWN_GRACE_S="4", AGENTD_SHUTDOWN_BUDGET_S="")
    unchosen.signal(15)
    assert (await unchosen.log("agentd.stopping"))["budget_s"] == 3
    assert "shutdown.grace_short" not in [line["event"] for line in unchosen.lines]


async def test_the_doctor_finds_no_fault_in_a_running_installation(testbed):
    daemon = await testbed.start()
    result = await testbed.run("doctor", "--json", AGENTD_SHUTDOWN_GRACE_S="30")
    report = json.loads(result.out)
    assert (result.code, report["ok"]) == (0, True)
    assert [check for check in report["checks"] if check["level"] != "ok"] == []
    assert f"pid {daemon.pid}" in next(
        check["cause"] for check in report["checks"] if check["check"] == "daemon"
    )
