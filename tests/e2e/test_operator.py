"""What an operator sees: start errors, secrets, reload, status, metrics, the demo."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

WRONG_STARTS = {
    "no URL": ({"CODER_AGENT_URL": ""}, 78, "coder.url: missing"),
    "no token": ({"CODER_AGENT_TOKEN": ""}, 78, "coder.token: missing"),
    "an unknown key": ({"AGENTD_SNAPSHOTS_TASKID": "x"}, 78, "did you mean AGENTD_SNAPSHOTS_TASK_ID?"),
    "a state directory that is a file": ({"AGENTD_STATE_DIR": "/dev/null"}, 73, "state directory /dev/null"),
    "a state directory below a file": (
        {"AGENTD_STATE_DIR": "/dev/null/x"},
        73,
        "state directory /dev/null/x",
    ),
    "a kernel's directory": ({"AGENTD_STATE_DIR": "/proc/agentd"}, 73, "state directory /proc/agentd"),
    "a missing token file": ({"CODER_AGENT_TOKEN": "", "CODER_AGENT_TOKEN_FILE": "/nowhere"}, 78, "/nowhere"),
    "a missing configuration file": ({"AGENTD_CONFIG": "/nowhere.toml"}, 78, "/nowhere.toml"),
}


@pytest.mark.parametrize(("environ", "code", "says"), WRONG_STARTS.values(), ids=WRONG_STARTS)
async def test_a_wrong_start_exits_with_one_line_that_names_the_cause(testbed, environ, code, says):
    result = await testbed.run("run", **environ)
    assert result.code == code, result
    assert says in result.err
    assert result.err.count("\n") == 1
    assert testbed.workspace.token not in result.err


async def test_a_second_daemon_on_one_state_directory_is_refused_with_the_pid_of_the_first(testbed):
    daemon = await testbed.start()
    result = await testbed.run("run", AGENTD_LOCAL_API_SOCKET=str(testbed.home / "other.sock"))
    assert result.code == 73
    assert f"pid {daemon.pid}" in result.err
    assert (await daemon.ask("/healthz"))["ok"] is True


async def test_the_token_is_in_no_log_answer_output_or_file(testbed):
    testbed.hook("10-prints-environment", "env")
    daemon = await testbed.start()
    await testbed.claim(daemon)
    testbed.agent.add_message("agent", "some words")
    await daemon.status_until(lambda s: s["agent"]["status"] == "stable", what="stable")
    texts = [str(line) for line in daemon.lines]
    texts += [str(await daemon.ask(route)) for route in ("/v1/status", "/v1/claims", "/readyz")]
    texts.append((await testbed.run("config", "show")).out)
    texts.append(Path(f"/proc/{daemon.pid}/cmdline").read_text())
    assert await daemon.stop() == 0
    texts += [
        path.read_bytes().decode(errors="replace") for path in testbed.state_dir.rglob("*") if path.is_file()
    ]
    assert not [text for text in texts if testbed.workspace.token in text]


async def test_the_state_directory_is_readable_by_its_owner_only(testbed):
    daemon = await testbed.start()
    await testbed.claim(daemon)
    await daemon.status_until(lambda s: s["agent"]["status"] == "stable", what="stable")
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in [testbed.state_dir, *testbed.state_dir.rglob("*")]
    }
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


async def test_hup_reads_a_new_token_and_rejects_a_wrong_configuration(testbed):
    token_file, config = testbed.home / "token", testbed.home / "agentd.toml"
    token_file.write_text(testbed.workspace.token)
    config.write_text("[log]\nlevel = 'debug'\n")
    daemon = await testbed.start(
        "--config", str(config), CODER_AGENT_TOKEN="", CODER_AGENT_TOKEN_FILE=str(token_file)
    )
    await daemon.status_until(lambda s: s["claims"]["state"] == "listening", what="listening")
    config.write_text("[nonsense]\nx = 1\n")
    daemon.signal(signal.SIGHUP)
    rejected = await daemon.log("config.rejected")
    assert "nonsense" in rejected["error"]
    config.write_text("[claims]\nmax_attempts = 7\n")
    token_file.write_text(testbed.coderd.start_build(testbed.workspace))
    daemon.signal(signal.SIGHUP)
    reloaded = await daemon.log("config.reloaded")
    assert reloaded["needs_restart"] == ["claims.max_attempts"]
    await daemon.log("stream.reopened")
    async with asyncio.timeout(20):
        while testbed.coderd.calls("reinit")[-1].headers["Coder-Session-Token"] != token_file.read_text():
            await asyncio.sleep(0.01)
    assert await daemon.stop() == 0


async def test_status_prints_text_and_one_line(testbed):
    assert (await testbed.run("status")).code == 69
    daemon = await testbed.start()
    await daemon.status_until(lambda s: s["agent"]["status"] == "stable", what="stable")
    text = await testbed.run("status")
    assert text.code == 0
    assert "listening" in text.out
    assert "stable for" in text.out
    line = await testbed.run("status", "--oneline")
    assert line.out.count("\n") == 1
    assert line.out.startswith("claims listening · agent stable")


async def test_metrics_have_the_version_and_the_hook_runs(testbed):
    testbed.counting_hook("10-once")
    daemon = await testbed.start()
    await testbed.claim(daemon)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from agentd.cli.local_client import fetch; from pathlib import Path; import sys;"
        "print(fetch(Path(sys.argv[1]), 'GET', '/metrics').decode())",
        str(daemon.socket),
        stdout=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )
    out, _ = await process.communicate()
    assert 'agentd_hook_runs_total{outcome="succeeded"} 1' in out.decode()
    assert 'agentd_info{version="' in out.decode()


async def test_the_demo_succeeds(testbed):
    result = await testbed.run("demo")
    assert result.code == 0, result
    assert "No hook ran twice, and no message was lost." in result.out


async def test_modules_that_no_answer_needs_are_imported_after_the_daemon_listens_and_before_its_first_task(
    testbed,
):
    daemon = await testbed.start(PYTHONPROFILEIMPORTTIME="1")
    await daemon.log("stream.open")
    lines = [str(line.get("text", line["event"])) for line in daemon.lines]
    loaded_at = {
        text.rpartition("|")[2].strip(): at for at, text in enumerate(lines) if "import time:" in text
    }
    started = lines.index("agentd.started")
    for name in ("httpx", "h11", "tenacity"):
        assert started < loaded_at[name] < lines.index("stream.open"), name
    assert loaded_at["aiohttp"] < started
