"""Ending AgentAPI: the right process, politely, and never another one. Real processes, real signals."""

import asyncio
import json
import os
import signal
import sys
import time

import pytest

from agentd.agents.agentapi.process import Ending, NotTheAgentError, end_agent


@pytest.fixture
def pid_file(tmp_path):
    return tmp_path / "agentapi.pid"


@pytest.fixture
async def processes():
    """Starts processes; whatever of them still runs at the end is killed."""
    started = []

    async def start(*words):
        process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def agentapi(start, pid_file, *options):
    process = await start(
        sys.executable, "-m", "agentd", "simulate", "agentapi", "--pid-file", str(pid_file), *options
    )
    assert b"simulated AgentAPI" in await process.stdout.readline()
    return process


async def test_agentapi_is_ended_and_waited_for(processes, pid_file):
    agent = await agentapi(processes, pid_file)
    assert await end_agent(pid_file, saves_state=False, timeout_s=30) is Ending.ENDED
    assert await agent.wait() == 0


async def test_it_saves_its_state_before_it_is_ended(processes, pid_file, tmp_path):
    state, talk = tmp_path / "state.json", tmp_path / "talk.json"
    talk.write_text('{"messages":[{"role":"agent","content":"remember me"}]}')
    agent = await agentapi(processes, pid_file, "--state-file", str(state), "--transcript", str(talk))
    await end_agent(pid_file, saves_state=True, timeout_s=30)
    assert await agent.wait() == 0
    assert json.loads(state.read_text())["messages"][0]["message"] == "remember me"


async def named_agentapi(start, tmp_path, script):
    """A process that is called agentapi and does what `script` (shell) says; it has begun when this returns."""
    program = tmp_path / "agentapi"
    program.write_text(f"#!/bin/sh\n{script}\necho begun\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    process = await start(str(program))
    await process.stdout.readline()
    return process


async def test_the_save_signal_comes_first_and_only_where_it_is_understood(processes, pid_file, tmp_path):
    script = f'trap "echo USR1 >> {tmp_path}/got" USR1; trap "echo TERM >> {tmp_path}/got; exit" TERM'
    for saves_state, expected in ((True, ["USR1", "TERM"]), (False, ["TERM"])):
        (tmp_path / "got").write_text("")
        process = await named_agentapi(processes, tmp_path, script)
        pid_file.write_text(f"{process.pid}\n")
        assert await end_agent(pid_file, saves_state=saves_state, timeout_s=30) is Ending.ENDED
        assert (tmp_path / "got").read_text().split() == expected


async def test_one_that_does_not_end_is_waited_for_no_longer_than_allowed_and_not_killed(
    processes, pid_file, tmp_path
):
    process = await named_agentapi(processes, tmp_path, 'trap "" TERM')
    pid_file.write_text(f"{process.pid}\n")
    assert await end_agent(pid_file, saves_state=False, timeout_s=0.1) is Ending.STILL_RUNNING
    os.kill(process.pid, 0)


def test_a_zombie_has_ended(pid_file):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # a zombie
    pid_file.write_text(f"{child}\n")
    try:
        assert asyncio.run(end_agent(pid_file, saves_state=True, timeout_s=30)) is Ending.ALREADY_GONE
    finally:
        os.waitpid(child, 0)


@pytest.mark.parametrize("text", [None, "999999999"])
async def test_without_a_pid_file_or_a_process_there_is_nothing_to_end(pid_file, text):
    if text is not None:
        pid_file.write_text(text)
    assert await end_agent(pid_file, saves_state=True, timeout_s=30) is Ending.ALREADY_GONE


@pytest.mark.parametrize("text", ["", "abc\n", "0\n", "1\n", "-1\n", "1.5", "12 13", "9" * 40, "٣"])
async def test_a_file_that_names_no_process_signals_none(pid_file, text):
    pid_file.write_text(text)
    with pytest.raises(NotTheAgentError, match="holds no process id"):
        await end_agent(pid_file, saves_state=True, timeout_s=30)


async def untouched(process, pid_file, why):
    with pytest.raises(NotTheAgentError, match=why):
        await end_agent(pid_file, saves_state=True, timeout_s=30)
    os.kill(process.pid, 0)
    assert process.returncode is None


async def test_a_stranger_with_the_same_pid_is_left_alone(processes, pid_file):
    stranger = await processes("sleep", "600")
    pid_file.write_text(f"{stranger.pid}\n")
    await untouched(stranger, pid_file, r"is [\w-]+, not agentapi")


async def test_a_process_that_only_reads_a_file_of_that_name_is_not_signalled(processes, pid_file, tmp_path):
    log = tmp_path / "agentapi.log"
    log.touch()
    stranger = await processes("tail", "-f", str(log))
    pid_file.write_text(f"{stranger.pid}\n")
    await untouched(stranger, pid_file, "not agentapi")


async def test_a_process_younger_than_the_pid_file_is_another_one(processes, pid_file, tmp_path):
    process = await named_agentapi(processes, tmp_path, ":")
    pid_file.write_text(f"{process.pid}\n")
    an_hour_ago = time.time() - 3600
    os.utime(pid_file, (an_hour_ago, an_hour_ago))
    await untouched(process, pid_file, "started after the pid file was written")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
async def test_a_process_of_another_user_than_the_files_is_left_alone(processes, pid_file, tmp_path):
    process = await named_agentapi(processes, tmp_path, ":")
    pid_file.write_text(f"{process.pid}\n")
    os.chown(pid_file, 12_345, 12_345)
    await untouched(process, pid_file, "belongs to user 0, its pid file to user 12345")


async def test_a_fifo_in_place_of_the_file_holds_up_nothing(pid_file):
    os.mkfifo(pid_file)
    with pytest.raises(NotTheAgentError):
        await end_agent(pid_file, saves_state=True, timeout_s=30)


async def test_the_signals_are_the_polite_ones(processes, pid_file, tmp_path):
    process = await named_agentapi(processes, tmp_path, ":")
    pid_file.write_text(f"{process.pid}\n")
    assert await end_agent(pid_file, saves_state=False, timeout_s=30) is Ending.ENDED
    assert await process.wait() == -signal.SIGTERM
