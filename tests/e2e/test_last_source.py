"""AgentAPI's state file as the last source of messages, and ending AgentAPI, with real processes."""

import asyncio
import json
import os
import sys

import pytest

LATE = "2126-03-02T09:00:00Z"
LONG_AGO = "1996-03-02T09:00:00Z"


def save(path, *messages, time):
    entries = [
        {"id": number, "message": content, "role": role, "time": time}
        for number, (role, content) in enumerate(messages)
    ]
    path.write_text(json.dumps({"version": 1, "messages": entries, "initial_prompt": ""}))
    return str(path)


@pytest.fixture
def state_file(testbed):
    return testbed.home / "agentapi-state.json"


async def test_with_the_agent_dead_and_an_empty_spool_stop_delivers_the_agents_state_file(
    testbed, state_file
):
    path = save(state_file, ("user", "hello"), ("agent", "saved at my end"), time=LONG_AGO)
    await testbed.agent.stop()
    result = await testbed.run("stop", AGENTD_AGENTAPI_STATE_FILE=path)
    assert result.code == 0, result
    assert testbed.stored()[-1]["content"] == "saved at my end"


async def test_the_state_file_saved_at_the_agents_end_completes_the_messages(testbed, state_file):
    daemon = await testbed.start(AGENTAPI_STATE_FILE=str(state_file))
    testbed.agent.add_message("agent", "half an ans")
    await daemon.log("snapshot.spooled", where=lambda line: line["messages"] >= 2)
    save(state_file, ("user", "hello"), ("agent", "half an answer, and the rest"), time=LATE)
    await testbed.agent.stop()
    await daemon.log("agent.state_file_read")
    assert await daemon.stop() == 0
    assert testbed.stored()[-1]["content"] == "half an answer, and the rest"


async def test_an_older_state_file_does_not_replace_newer_messages(testbed, state_file):
    save(state_file, ("user", "hello"), ("agent", "another life"), time=LONG_AGO)
    daemon = await testbed.start(AGENTD_AGENTAPI_STATE_FILE=str(state_file))
    testbed.agent.add_message("agent", "my last words")
    await daemon.log("snapshot.spooled", where=lambda line: line["messages"] >= 2)
    await testbed.agent.stop()
    assert await daemon.stop() == 0
    assert testbed.stored()[-1]["content"] == "my last words"


@pytest.mark.parametrize("content", [None, b"", b'{"version":1,"mess', b"\xff\xfe", b'{"messages":7}'])
async def test_an_unreadable_state_file_does_not_affect_the_snapshot(testbed, state_file, content):
    if content is not None:
        state_file.write_bytes(content)
    daemon = await testbed.start(AGENTD_AGENTAPI_STATE_FILE=str(state_file))
    testbed.agent.add_message("agent", "my last words")
    await daemon.log("snapshot.spooled", where=lambda line: line["messages"] >= 2)
    await testbed.agent.stop()
    await daemon.log("agent.state_file_unreadable")
    assert await daemon.stop() == 0
    assert testbed.stored()[-1]["content"] == "my last words"


@pytest.fixture
async def agent_process(testbed):
    """AgentAPI as a process with a pid file and a state file, and the environment for a daemon beside it."""
    talk = testbed.home / "talk.json"
    talk.write_text('{"messages":[{"role":"agent","content":"remember me"}]}')
    files = {
        "AGENTD_AGENTAPI_PID_FILE": f"{testbed.home}/agentapi.pid",
        "AGENTD_AGENTAPI_STATE_FILE": f"{testbed.home}/s",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentd", "simulate", "agentapi", "--transcript", str(talk),
        "--pid-file", files["AGENTD_AGENTAPI_PID_FILE"], "--state-file", files["AGENTD_AGENTAPI_STATE_FILE"],
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    url = (await process.stdout.readline()).decode().split()[-1]
    yield process, files | {"AGENTD_AGENTAPI_URL": url, "AGENTD_SHUTDOWN_STOP_AGENT": "true"}
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def test_with_stop_agent_set_agentapi_is_ended_after_the_snapshot_is_durable(testbed, agent_process):
    process, environ = agent_process
    daemon = await testbed.start(**environ)
    await daemon.log("snapshot.spooled")
    assert await daemon.stop() == 0
    assert await process.wait() == 0
    ended = await daemon.log("agent.ended")
    assert (ended["outcome"], ended["saved_first"]) == ("ended", True)
    assert testbed.stored()[-1]["content"] == "remember me"


async def test_stop_without_a_daemon_ends_agentapi_and_snapshot_does_not(testbed, agent_process):
    process, environ = agent_process
    result = await testbed.run("snapshot", **environ)
    assert (result.code, process.returncode) == (0, None)
    os.kill(process.pid, 0)
    result = await testbed.run("stop", **environ)
    assert result.code == 0, result
    assert await process.wait() == 0


async def test_a_pid_file_with_another_programs_pid_ends_no_process(testbed):
    pid_file = testbed.home / "agentapi.pid"
    pid_file.write_text(f"{os.getpid()}\n")
    daemon = await testbed.start(AGENTD_AGENTAPI_PID_FILE=str(pid_file), AGENTD_SHUTDOWN_STOP_AGENT="true")
    assert await daemon.stop() == 0
    assert "not agentapi" in (await daemon.log("agent.left_running"))["reason"]


async def test_without_stop_agent_agentapi_is_left_running(testbed, agent_process):
    process, environ = agent_process
    daemon = await testbed.start(**environ | {"AGENTD_SHUTDOWN_STOP_AGENT": "false"})
    assert await daemon.stop() == 0
    os.kill(process.pid, 0)
    assert process.returncode is None
