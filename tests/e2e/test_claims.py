"""Claims, with the real daemon."""

import asyncio
import signal

from agentd.simulator.coderd import SimulatedCoderd


async def test_a_claim_runs_every_hook_once_in_name_order(stage):
    stage.counting_hook("20-second")
    stage.counting_hook("10-first")
    daemon = await stage.start()
    await stage.claim(daemon)
    assert stage.runs() == ["10-first 1", "20-second 1"]


async def test_a_claim_replayed_on_reconnect_runs_no_hook(stage):
    stage.counting_hook("10-once")
    daemon = await stage.start()
    await stage.claim(daemon)
    await stage.coderd.drop_connections("reset")
    await daemon.log("claim.replayed")
    assert stage.runs() == ["10-once 1"]


async def test_a_claim_replayed_after_kill_9_and_restart_runs_no_hook(stage):
    stage.counting_hook("10-once")
    daemon = await stage.start()
    await stage.claim(daemon)
    await daemon.kill()
    daemon = await stage.start()
    await daemon.log("claim.replayed")
    assert stage.runs() == ["10-once 1"]


async def test_a_claim_made_while_no_daemon_ran_is_acted_on_at_the_next_start(stage):
    stage.counting_hook("10-once")
    stage.coderd.claim_start(stage.workspace)
    await stage.coderd.claim_finish(stage.workspace)
    daemon = await stage.start()
    await daemon.log("claim.done")
    assert stage.runs() == ["10-once 1"]


async def test_401_while_the_claim_job_runs_is_waited_out(stage):
    stage.counting_hook("10-once")
    stage.coderd.claim_start(stage.workspace)
    daemon = await stage.start()
    await daemon.status_until(lambda s: s["claims"]["state"] == "unauthorized", what="unauthorized")
    await stage.coderd.claim_finish(stage.workspace)
    await daemon.log("claim.done")
    assert stage.runs() == ["10-once 1"]


async def test_409_ends_the_wait_and_nothing_else(stage):
    regular = stage.coderd.add_workspace()
    daemon = await stage.start(CODER_AGENT_TOKEN=regular.token)
    status = await daemon.status_until(
        lambda s: s["claims"]["state"] == "not_a_prebuild", what="not_a_prebuild"
    )
    assert "prebuilt" in status["claims"]["reason"] or "claim" in status["claims"]["reason"]
    assert await daemon.stop() == 0


async def test_a_hook_running_at_sigterm_is_ended_and_done_by_the_next_daemon(stage):
    stage.hook(
        "10-slow",
        f"""trap 'echo ended >> {stage.home}/runs; exit 1' TERM
        echo "attempt $AGENTD_ATTEMPT" >> {stage.home}/runs
        [ "$AGENTD_ATTEMPT" -ge 2 ] && exit 0
        sleep 600 & wait""",
    )
    daemon = await stage.start()
    await daemon.status_until(lambda s: s["claims"]["state"] == "listening", what="listening")
    stage.coderd.claim_start(stage.workspace)
    await stage.coderd.claim_finish(stage.workspace)
    await daemon.log("hook.started")
    while stage.runs() != ["attempt 1"]:
        await asyncio.sleep(0.01)
    assert await daemon.stop() == 0
    daemon = await stage.start()
    await daemon.log("claim.done")
    assert stage.runs() == ["attempt 1", "ended", "attempt 2"]


async def test_a_hook_left_by_kill_9_is_ended_before_it_is_tried_again(stage):
    # The second attempt looks for the first one. A zombie is dead: whoever adopted it has not collected it yet.
    stage.hook(
        "10-slow",
        f"""echo "attempt $AGENTD_ATTEMPT" >> {stage.home}/runs
        if [ "$AGENTD_ATTEMPT" -ge 2 ]; then
          grep -q "^State:.[^ZX]" "/proc/$(cat {stage.home}/pid)/status" && echo both >> {stage.home}/runs
          exit 0
        fi
        echo $$ > {stage.home}/pid
        exec sleep 600""",
    )
    daemon = await stage.start()
    await daemon.status_until(lambda s: s["claims"]["state"] == "listening", what="listening")
    stage.coderd.claim_start(stage.workspace)
    await stage.coderd.claim_finish(stage.workspace)
    while not (stage.home / "pid").exists():
        await asyncio.sleep(0.01)
    await daemon.kill()
    daemon = await stage.start()
    await daemon.log("claim.done")
    assert stage.runs() == ["attempt 1", "attempt 2"]


async def test_hooks_see_no_token_unless_asked_for(stage):
    stage.hook("10-env", f"env > {stage.home}/env")
    daemon = await stage.start()
    await stage.claim(daemon)
    told = dict(line.partition("=")[::2] for line in (stage.home / "env").read_text().splitlines())
    assert stage.workspace.token not in told.values()
    assert told["AGENTD_OWNER_ID"] == stage.coderd.user_id
    assert told["AGENTD_WORKSPACE_ID"] == stage.workspace.id
    assert told["AGENTD_REASON"] == "prebuild_claimed"
    assert told["AGENTD_ATTEMPT"] == "1"


async def test_claims_can_be_listed_shown_forgotten_with_and_without_the_daemon(stage):
    stage.hook("10-talks", "echo hello from the hook")
    daemon = await stage.start()
    await stage.claim(daemon)
    listed = await stage.type("claims")
    assert listed.code == 0
    assert "done" in listed.out
    claim_id = listed.out.split()[0]
    assert "hello from the hook" in (await stage.type("claims", "show", claim_id)).out
    assert (await stage.type("claims", "show", "ffffffffffff")).code == 1
    assert (await stage.type("claims", "retry", claim_id)).code == 1, "a claim that is done never runs again"
    daemon.signal(signal.SIGTERM)
    await daemon.exit_code()
    assert (await stage.type("claims")).out == listed.out
    assert (await stage.type("claims", "forget", claim_id)).code == 0
    assert (await stage.type("claims")).out == "no claims\n"


async def test_a_later_build_with_a_new_token_shows_the_claim_as_settled_and_runs_nothing(stage):
    stage.counting_hook("10-once")
    daemon = await stage.start()
    await stage.claim(daemon)
    await daemon.stop()
    async with SimulatedCoderd(era="E2", ping_s=0.5) as later:
        workspace = later.add_prebuild(workspace_id=stage.workspace.id)
        later.claim_start(workspace, stage.coderd.user_id)
        await later.claim_finish(workspace)
        assert workspace.token != stage.workspace.token
        daemon = await stage.start(CODER_AGENT_URL=later.url, CODER_AGENT_TOKEN=workspace.token)
        await daemon.log("claim.replayed")
        await daemon.status_until(lambda s: s["claims"]["state"] == "settled", what="settled")
        assert await daemon.stop() == 0
    assert stage.runs() == ["10-once 1"]
