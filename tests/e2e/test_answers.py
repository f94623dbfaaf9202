"""What the real daemon tells an operator: how the last run ended, how long a stop would take, whether all is well."""

import json

import pytest

pytestmark = pytest.mark.e2e


async def test_a_drill_asks_the_running_daemon_and_stops_and_stores_nothing(stage):
    stage.agent.add_message("user", "hello")
    daemon = await stage.start(AGENTD_SNAPSHOTS_UPLOAD="stop")
    await daemon.status_until(lambda s: s["snapshot"]["messages"], what="a snapshot")
    typed = await stage.type("drill", "--json", AGENTD_SHUTDOWN_GRACE_S="30")
    assert typed.code == 0, typed.err
    report = json.loads(typed.out)
    assert {part["name"]: part["outcome"] for part in report["parts"]} == {
        "refresh": "done", "fit": "done", "spool": "done", "upload": "done",
    }  # fmt: skip
    assert report["grace_s"] == 30
    assert stage.stored() == []
    assert await daemon.stop() == 0
    assert len(stage.stored()) == 2


async def test_a_kill_is_told_at_the_next_start_and_an_orderly_stop_is_not(stage):
    daemon = await stage.start()
    assert (await daemon.ask("/v1/status"))["last_stop"] is None
    await daemon.kill()
    second = await stage.start()
    line = await second.log("agentd.last_run_not_stopped")
    assert line["ended"] == "killed"
    assert (await second.ask("/v1/status"))["last_stop"]["ended"] == "killed"
    assert await second.stop() == 0
    third = await stage.start()
    status = await third.ask("/v1/status")
    assert (status["last_stop"]["ended"], status["last_stop"]["reason"]) == ("in_order", "SIGTERM")
    assert third.events("agentd.last_run_not_stopped") == []


async def test_a_stop_that_is_cut_off_is_told_at_the_next_start(stage):
    stage.agent.add_message("user", "hello")
    stage.coderd.fault("log-snapshot", "no_headers", times=100)
    daemon = await stage.start(AGENTD_SNAPSHOTS_UPLOAD="stop")
    await daemon.status_until(lambda s: s["snapshot"]["messages"], what="a snapshot")
    daemon.signal(15)
    # The upload hangs, so the stop is under way until its budget ends.
    await stage.coderd.until(lambda: bool(stage.coderd.calls("log-snapshot")))
    await daemon.kill()
    stage.coderd.clear_faults()
    second = await stage.start()
    line = await second.log("agentd.last_run_not_stopped")
    assert (line["ended"], line["reason"], line["budget_s"]) == ("cut_off", "SIGTERM", 10)


async def test_a_budget_that_does_not_fit_is_warned_of_and_an_unchosen_one_shrinks(stage):
    daemon = await stage.start(AGENTD_SHUTDOWN_GRACE_S="4")
    line = await daemon.log("shutdown.grace_short")
    assert (line["budget_s"], line["grace_s"]) == (10, 4)
    assert await daemon.stop() == 0
    unchosen = await stage.start(AGENTD_SHUTDOWN_GRACE_S="4", AGENTD_SHUTDOWN_BUDGET_S="")
    unchosen.signal(15)
    assert (await unchosen.log("agentd.stopping"))["budget_s"] == 3
    assert unchosen.events("shutdown.grace_short") == []


async def test_the_doctor_finds_a_running_installation_in_good_health(stage):
    daemon = await stage.start()
    typed = await stage.type("doctor", "--json", AGENTD_SHUTDOWN_GRACE_S="30")
    said = json.loads(typed.out)
    assert (typed.code, said["ok"]) == (0, True)
    assert [check for check in said["checks"] if check["level"] != "ok"] == []
    assert f"pid {daemon.pid}" in next(
        check["cause"] for check in said["checks"] if check["check"] == "daemon"
    )
