"""An agent's own hooks, through `agentd hook` to the status of the real daemon."""

import asyncio
import json
import sys


async def call_hook(testbed, agent, **payload):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentd", "hook", agent, env=testbed.environ | {"PATH": "/usr/bin:/bin"},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate(json.dumps(payload).encode())
    assert (process.returncode, out) == (0, b"")


async def agent_is(daemon, status):
    return (await daemon.status_until(lambda s: s["agent"]["status"] == status, what=status))["agent"]


async def test_an_agent_is_observed_by_its_hooks_alone(testbed):
    await testbed.agent.stop()
    folder = testbed.home / "hooks" / "on-waiting.d"
    folder.mkdir(parents=True)
    (folder / "10-note").write_text(
        f'#!/bin/sh\necho "$AGENTD_REASON $AGENTD_AGENT $AGENTD_SESSION_ID" >> {testbed.home}/runs\n'
    )
    (folder / "10-note").chmod(0o755)
    daemon = await testbed.start(AGENTD_AGENT_SOURCES="auto", AGENTD_AGENT_HOME=str(testbed.home))
    socket = testbed.state_dir / "agentd.sock.hook"
    assert socket.is_socket()
    await agent_is(daemon, "unreachable")
    await call_hook(testbed, "my-agent", state="busy", session_id="s-1", cwd="/workspace")
    seen = await agent_is(daemon, "running")
    assert (seen["kind"], seen["session"]["id"], seen["sessions"]) == ("my-agent", "s-1", 1)
    await call_hook(testbed, "my-agent", state="waiting", session_id="s-1", message="Which colour?")
    assert "Which colour?" in (await agent_is(daemon, "waiting"))["evidence"]
    await daemon.log("hook.succeeded", where=lambda line: line["occasion"] == "waiting")
    await call_hook(testbed, "my-agent", state="idle", session_id="s-1")
    await agent_is(daemon, "stable")
    await call_hook(testbed, "my-agent", state="gone", session_id="s-1")
    await agent_is(daemon, "unreachable")
    assert await daemon.stop() == 0
    assert testbed.runs() == ["waiting my-agent s-1"]
    assert not socket.exists()


async def test_no_socket_takes_hooks_if_no_agent_is_observed(testbed):
    daemon = await testbed.start(AGENTD_AGENT_SOURCES="none")
    assert [path.name for path in testbed.state_dir.glob("*.sock*")] == ["agentd.sock"]
    await call_hook(testbed, "my-agent", state="busy")
    assert await daemon.stop() == 0
