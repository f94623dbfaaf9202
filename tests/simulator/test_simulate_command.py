"""`agentd simulate` as a process."""

import asyncio
import re
import signal
import sys

import pytest

SCRIPT = """
import argparse, sys
from agentd.cli import simulate
parser = argparse.ArgumentParser()
simulate.configure(parser)
sys.exit(simulate.run(parser.parse_args()))
"""


@pytest.fixture
async def simulate():
    started = []

    async def start(*args):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            SCRIPT,
            *args,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def printed(process):
    """The text that it prints up to the first curl command, and the URL in it."""
    lines = []
    while not lines or "curl" not in lines[-1]:
        line = (await process.stdout.readline()).decode()
        assert line, (await process.stderr.read()).decode()
        lines.append(line)
    text = "".join(lines)
    return text, re.search(r"http://127\.0\.0\.1:\d+", text).group()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
async def test_coderd_prints_its_settings_and_stops_on_a_signal(simulate, ask, stop):
    token = "33333333-3333-4333-8333-333333333333"
    process = await simulate("coderd", "--token", token, "--regular", "--era", "E4")
    text, url = await printed(process)

    assert f"export CODER_AGENT_TOKEN={token}" in text
    assert f"export CODER_AGENT_URL={url}" in text
    assert re.search(r"export AGENTD_SNAPSHOTS_TASK_ID=[0-9a-f-]{36}", text)
    assert (await ask("GET", url + "/api/v2/workspaceagents/me/reinit?wait=1", token=token)).status == 409
    assert (await ask("POST", url + "/_sim/stop-start")).status == 200
    process.send_signal(stop)
    assert await process.wait() == 0


async def test_agentapi_serves_a_transcript_and_saves_on_sigusr1_and_at_exit(simulate, ask, tmp_path):
    transcript, state, pid = tmp_path / "t.json", tmp_path / "state.json", tmp_path / "pid"
    transcript.write_text('{"messages":[{"content":"from the file"}]}')
    process = await simulate(
        "agentapi", "--transcript", str(transcript), "--state-file", str(state), "--pid-file", str(pid), "--echo", "0",
        "--send-s", "0",
    )  # fmt: skip
    _, url = await printed(process)
    assert "from the file" in (await ask("GET", url + "/messages")).text
    assert pid.read_text() == f"{process.pid}\n"
    process.send_signal(signal.SIGUSR1)
    while not state.exists():
        await asyncio.sleep(0.01)
    await ask("POST", url + "/message", json={"content": "hi", "type": "user"})
    while "You said: hi" not in (await ask("GET", url + "/messages")).text:
        await asyncio.sleep(0.01)
    process.terminate()
    assert await process.wait() == 0
    assert "You said: hi" in state.read_text()
    assert not pid.exists()


async def test_agentapi_runs_a_script(simulate, ask, tmp_path):
    path = tmp_path / "script.toml"
    path.write_text(
        """
        [[script]]
        status = "running"
        [[script]]
        after_s = 0.05
        message = "Working"
        [[script]]
        append = " … done"
        [[script]]
        status = "stable"
        """
    )
    _, url = await printed(await simulate("agentapi", "--script", str(path)))
    while "Working … done" not in (await ask("GET", url + "/messages")).text:
        await asyncio.sleep(0.01)
    while '"status":"stable"' not in (await ask("GET", url + "/status")).text:
        await asyncio.sleep(0.01)


async def test_an_acp_agent_exits_with_a_panic(simulate):
    process = await simulate("agentapi", "--mode", "acp")
    await printed(process)
    process.terminate()

    assert await process.wait() == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("agentapi", "--transcript", "/nonexistent"), b"--transcript /nonexistent"),
        (("agentapi", "--script", "/nonexistent"), b"script /nonexistent: "),
        (("coderd", "--state", "/proc/none/x"), b"state /proc/none/x: "),
        (
            ("agentapi", "--agent-version", "new"),
            b"malformed version of AgentAPI: 'new'; write it like 0.12.1",
        ),
        (("coderd", "--port", "TAKEN"), b"agentd simulate coderd: "),
    ],
)
async def test_an_invalid_argument_is_one_line_on_stderr(simulate, args, message):
    async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0) as taken:
        port = str(taken.sockets[0].getsockname()[1])
        process = await simulate(*(port if arg == "TAKEN" else arg for arg in args))
        _, errors = await process.communicate()

    assert process.returncode == 1
    assert message in errors
    assert errors.count(b"\n") == 1
