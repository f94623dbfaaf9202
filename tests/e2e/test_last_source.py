"""AgentAPI's state file as the last source, and AgentAPI's own end, with the real daemon and a real process."""

import asyncio
import json
import os
import sys

import pytest

LATE = "2126-03-02T09:00:00Z"
LONG_AGO = "1996-03-02T09:00:00Z"


def save(path, *said, time):
    messages = [
        {"id": number, "message": content, "role": role, "time": time}
        for number, (role, content) in enumerate(said)
    ]
    path.write_text(json.dumps({"version": 1, "messages": messages, "initial_prompt": ""}))
    return str(path)


@pytest.fixture
def state_file(stage):
    return stage.home / "agentapi-state.json"


async def test_with_the_agent_dead_and_nothing_kept_stop_delivers_what_the_agent_saved(stage, state_file):
    path = save(state_file, ("user", "hello"), ("agent", "saved at my end"), time=LONG_AGO)
    await stage.agent.stop()
    typed = await stage.type("stop", AGENTD_AGENTAPI_STATE_FILE=path)
    assert typed.code == 0, typed
    assert stage.stored()[-1]["content"] == "saved at my end"


async def test_what_the_agent_saved_at_its_end_completes_what_was_read_from_it(stage, state_file):
    daemon = await stage.start(AGENTAPI_STATE_FILE=str(state_file))
    stage.agent.add_message("agent", "half an ans")
    await daemon.log("snapshot.spooled", where=lambda line: line["messages"] >= 2)
    save(state_file, ("user", "hello"), ("agent", "half an answer, and the rest"), time=LATE)
    await stage.agent.stop()
    await daemon.log("agent.state_file_read")
    assert await daemon.stop() == 0
    assert stage.stored()[-1]["content"] == "half an answer, and the rest"


async def test_an_older_save_does_not_replace_what_was_read(stage, state_file):
    save(state_file, ("user", "hello"), ("agent", "another life"), time=LONG_AGO)
    daemon = await stage.start(AGENTD_AGENTAPI_STATE_FILE=str(state_file))
    stage.agent.add_message("agent", "my last words")
    await daemon.log("snapshot.spooled", where=lambda line: line["messages"] >= 2)
    await stage.agent.stop()
    assert await daemon.stop() == 0
    assert stage.stored()[-1]["content"] == "my last words"


@pytest.mark.parametrize("content", [None, b"", b'{"version":1,"mess', b"\xff\xfe", b'{"messages":7}'])
async def test_a_broken_save_costs_nothing_else(stage, state_file, content):
    if content is not None:
        state_file.write_bytes(content)
    daemon = await stage.start(AGENTD_AGENTAPI_STATE_FILE=str(state_file))
    stage.agent.add_message("agent", "my last words")
    await daemon.log("snapshot.spooled", where=lambda line: line["messages"] >= 2)
    await stage.agent.stop()
    await daemon.log("agent.state_file_unreadable")
    assert await daemon.stop() == 0
    assert stage.stored()[-1]["content"] == "my last words"


@pytest.fixture
async def agent_process(stage):
    """AgentAPI as a process, with the files it keeps; what stage says of the agent holds for it."""
    talk = stage.home / "talk.json"
    talk.write_text('{"messages":[{"role":"agent","content":"remember me"}]}')
    files = {
        "AGENTD_AGENTAPI_PID_FILE": f"{stage.home}/agentapi.pid",
        "AGENTD_AGENTAPI_STATE_FILE": f"{stage.home}/s",
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


async def test_where_asked_agentapi_is_ended_once_the_snapshot_is_safe(stage, agent_process):
    process, environ = agent_process
    daemon = await stage.start(**environ)
    await daemon.log("snapshot.spooled")
    assert await daemon.stop() == 0
    assert await process.wait() == 0
    ended = await daemon.log("agent.ended")
    assert (ended["outcome"], ended["saved_first"]) == ("ended", True)
    assert stage.stored()[-1]["content"] == "remember me"


async def test_stop_without_a_daemon_ends_agentapi_as_well_and_a_snapshot_does_not(stage, agent_process):
    process, environ = agent_process
    typed = await stage.type("snapshot", **environ)
    assert (typed.code, process.returncode) == (0, None)
    os.kill(process.pid, 0)
    typed = await stage.type("stop", **environ)
    assert typed.code == 0, typed
    assert await process.wait() == 0


async def test_a_pid_file_that_names_a_stranger_ends_nobody(stage):
    pid_file = stage.home / "agentapi.pid"
    pid_file.write_text(f"{os.getpid()}\n")
    daemon = await stage.start(AGENTD_AGENTAPI_PID_FILE=str(pid_file), AGENTD_SHUTDOWN_STOP_AGENT="true")
    assert await daemon.stop() == 0
    assert "not agentapi" in (await daemon.log("agent.left_running"))["reason"]


async def test_unless_asked_agentapi_is_left_running(stage, agent_process):
    process, environ = agent_process
    daemon = await stage.start(**environ | {"AGENTD_SHUTDOWN_STOP_AGENT": "false"})
    assert await daemon.stop() == 0
    os.kill(process.pid, 0)
    assert process.returncode is None
