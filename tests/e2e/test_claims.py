"""Claims and their hooks, with the real daemon."""

import asyncio
import signal

from agentd.simulator.coderd import SimulatedCoderd


async def test_a_claim_runs_every_hook_once_in_name_order(testbed):
    testbed.counting_hook("20-second")
    testbed.counting_hook("10-first")
    daemon = await testbed.start()
    await testbed.claim(daemon)
    assert testbed.runs() == ["10-first 1", "20-second 1"]


async def test_a_claim_replayed_on_reconnect_runs_no_hook(testbed):
    testbed.counting_hook("10-once")
    daemon = await testbed.start()
    await testbed.claim(daemon)
    await testbed.coderd.drop_connections("reset")
    await daemon.log("claim.replayed")
    assert testbed.runs() == ["10-once 1"]


async def test_a_claim_replayed_after_kill_9_and_restart_runs_no_hook(testbed):
    testbed.counting_hook("10-once")
    daemon = await testbed.start()
    await testbed.claim(daemon)
    await daemon.kill()
    daemon = await testbed.start()
    await daemon.log("claim.replayed")
    assert testbed.runs() == ["10-once 1"]


async def test_the_next_start_acts_on_a_claim_made_while_no_daemon_ran(testbed):
    testbed.counting_hook("10-once")
    testbed.coderd.claim_start(testbed.workspace)
    await testbed.coderd.claim_finish(testbed.workspace)
    daemon = await testbed.start()
    await daemon.log("claim.done")
    assert testbed.runs() == ["10-once 1"]


async def test_401_while_the_claim_job_runs_is_retried_until_the_claim_arrives(testbed):
    testbed.counting_hook("10-once")
    testbed.coderd.claim_start(testbed.workspace)
    daemon = await testbed.start()
    await daemon.status_until(lambda s: s["claims"]["state"] == "unauthorized", what="unauthorized")
    await testbed.coderd.claim_finish(testbed.workspace)
    await daemon.log("claim.done")
    assert testbed.runs() == ["10-once 1"]


async def test_409_ends_listening_and_the_daemon_keeps_running(testbed):
    regular = testbed.coderd.add_workspace()
    daemon = await testbed.start(CODER_AGENT_TOKEN=regular.token)
    status = await daemon.status_until(
        lambda s: s["claims"]["state"] == "not_a_prebuild", what="not_a_prebuild"
    )
    assert "prebuilt" in status["claims"]["reason"] or "claim" in status["claims"]["reason"]
    assert await daemon.stop() == 0


async def test_a_hook_that_runs_at_sigterm_is_ended_and_the_next_daemon_runs_it_again(testbed):
    testbed.hook(
        "10-slow",
        f"""trap 'echo ended >> {testbed.home}/runs; exit 1' TERM
        echo "attempt $AGENTD_ATTEMPT" >> {testbed.home}/runs
        [ "$AGENTD_ATTEMPT" -ge 2 ] && exit 0
        sleep 600 & wait""",
    )
    daemon = await testbed.start()
    await daemon.status_until(lambda s: s["claims"]["state"] == "listening", what="listening")
    testbed.coderd.claim_start(testbed.workspace)
    await testbed.coderd.claim_finish(testbed.workspace)
    await daemon.log("hook.started")
    while testbed.runs() != ["attempt 1"]:
        await asyncio.sleep(0.01)
    assert await daemon.stop() == 0
    daemon = await testbed.start()
    await daemon.log("claim.done")
    assert testbed.runs() == ["attempt 1", "ended", "attempt 2"]


async def test_a_hook_that_survives_kill_9_is_ended_before_its_next_attempt(testbed):
    # The second attempt checks that the first one has ended. A zombie has ended: its parent has not collected it yet.
    testbed.hook(
        "10-slow",
        f"""echo "attempt $AGENTD_ATTEMPT" >> {testbed.home}/runs
        if [ "$AGENTD_ATTEMPT" -ge 2 ]; then
          grep -q "^State:.[^ZX]" "/proc/$(cat {testbed.home}/pid)/status" && echo both >> {testbed.home}/runs
          exit 0
        fi
        echo $$ > {testbed.home}/pid
        exec sleep 600""",
    )
    daemon = await testbed.start()
    await daemon.status_until(lambda s: s["claims"]["state"] == "listening", what="listening")
    testbed.coderd.claim_start(testbed.workspace)
    await testbed.coderd.claim_finish(testbed.workspace)
    while not (testbed.home / "pid").exists():
        await asyncio.sleep(0.01)
    await daemon.kill()
    daemon = await testbed.start()
    await daemon.log("claim.done")
    assert testbed.runs() == ["attempt 1", "attempt 2"]


async def test_hooks_get_no_token_by_default(testbed):
    testbed.hook("10-env", f"env > {testbed.home}/env")
    daemon = await testbed.start()
    await testbed.claim(daemon)
    environ = dict(line.partition("=")[::2] for line in (testbed.home / "env").read_text().splitlines())
    assert testbed.workspace.token not in environ.values()
    assert environ["AGENTD_OWNER_ID"] == testbed.coderd.user_id
    assert environ["AGENTD_WORKSPACE_ID"] == testbed.workspace.id
    assert environ["AGENTD_REASON"] == "prebuild_claimed"
    assert environ["AGENTD_ATTEMPT"] == "1"


async def test_claims_are_listed_shown_and_forgotten_with_and_without_the_daemon(testbed):
    testbed.hook("10-talks", "echo hello from the hook")
    daemon = await testbed.start()
    await testbed.claim(daemon)
    listed = await testbed.run("claims")
    assert listed.code == 0
    assert "done" in listed.out
    claim_id = listed.out.split()[0]
    assert "hello from the hook" in (await testbed.run("claims", "show", claim_id)).out
    assert (await testbed.run("claims", "show", "ffffffffffff")).code == 1
    assert (await testbed.run("claims", "retry", claim_id)).code == 1, "a claim that is done never runs again"
    daemon.signal(signal.SIGTERM)
    await daemon.exit_code()
    assert (await testbed.run("claims")).out == listed.out
    assert (await testbed.run("claims", "forget", claim_id)).code == 0
    assert (await testbed.run("claims")).out == "no claims\n"


async def test_a_later_build_with_a_new_token_shows_the_claim_as_settled_and_runs_no_hook(testbed):
    testbed.counting_hook("10-once")
    daemon = await testbed.start()
    await testbed.claim(daemon)
    await daemon.stop()
    async with SimulatedCoderd(era="E2", ping_s=0.5) as later:
        workspace = later.add_prebuild(workspace_id=testbed.workspace.id)
        later.claim_start(workspace, testbed.coderd.user_id)
        await later.claim_finish(workspace)
        assert workspace.token != testbed.workspace.token
        daemon = await testbed.start(CODER_AGENT_URL=later.url, CODER_AGENT_TOKEN=workspace.token)
        await daemon.log("claim.replayed")
        await daemon.status_until(lambda s: s["claims"]["state"] == "settled", what="settled")
        assert await daemon.stop() == 0
    assert testbed.runs() == ["10-once 1"]
