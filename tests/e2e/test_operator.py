"""What an operator meets: refusals, secrets, reload, the demo."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

UNSET = {
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


@pytest.mark.parametrize(("environ", "code", "says"), UNSET.values(), ids=UNSET)
async def test_a_wrong_start_is_refused_with_one_clear_line(stage, environ, code, says):
    typed = await stage.type("run", **environ)
    assert typed.code == code, typed
    assert says in typed.err
    assert typed.err.count("\n") == 1
    assert stage.workspace.token not in typed.err


async def test_a_second_daemon_on_one_state_directory_is_refused_and_told_by_whom(stage):
    daemon = await stage.start()
    typed = await stage.type("run", AGENTD_LOCAL_API_SOCKET=str(stage.home / "other.sock"))
    assert typed.code == 73
    assert f"pid {daemon.pid}" in typed.err
    assert (await daemon.ask("/healthz"))["ok"] is True


async def test_the_token_is_nowhere_to_be_seen(stage):
    stage.hook("10-prints-environment", "env")
    daemon = await stage.start()
    await stage.claim(daemon)
    stage.agent.add_message("agent", "some words")
    await daemon.status_until(lambda s: s["agent"]["status"] == "stable", what="stable")
    said = [str(line) for line in daemon.lines]
    said += [str(await daemon.ask(route)) for route in ("/v1/status", "/v1/claims", "/readyz")]
    said.append((await stage.type("config", "show")).out)
    said.append(Path(f"/proc/{daemon.pid}/cmdline").read_text())
    assert await daemon.stop() == 0
    said += [
        path.read_bytes().decode(errors="replace") for path in stage.state_dir.rglob("*") if path.is_file()
    ]
    assert not [text for text in said if stage.workspace.token in text]


async def test_what_is_kept_is_private(stage):
    daemon = await stage.start()
    await stage.claim(daemon)
    await daemon.status_until(lambda s: s["agent"]["status"] == "stable", what="stable")
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in [stage.state_dir, *stage.state_dir.rglob("*")]
    }
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


async def test_hup_takes_up_a_new_token_and_refuses_a_wrong_configuration(stage):
    token_file, config = stage.home / "token", stage.home / "agentd.toml"
    token_file.write_text(stage.workspace.token)
    config.write_text("[log]\nlevel = 'debug'\n")
    daemon = await stage.start(
        "--config", str(config), CODER_AGENT_TOKEN="", CODER_AGENT_TOKEN_FILE=str(token_file)
    )
    await daemon.status_until(lambda s: s["claims"]["state"] == "listening", what="listening")
    config.write_text("[nonsense]\nx = 1\n")
    daemon.signal(signal.SIGHUP)
    rejected = await daemon.log("config.rejected")
    assert "nonsense" in rejected["error"]
    config.write_text("[claims]\nmax_attempts = 7\n")
    token_file.write_text(stage.coderd.start_build(stage.workspace))
    daemon.signal(signal.SIGHUP)
    reloaded = await daemon.log("config.reloaded")
    assert reloaded["needs_restart"] == ["claims.max_attempts"]
    assert await daemon.stop() == 0


async def test_status_tells_a_person_and_a_script(stage):
    assert (await stage.type("status")).code == 69
    daemon = await stage.start()
    await daemon.status_until(lambda s: s["agent"]["status"] == "stable", what="stable")
    words = await stage.type("status")
    assert words.code == 0
    assert "listening" in words.out
    assert "stable for" in words.out
    line = await stage.type("status", "--oneline")
    assert line.out.count("\n") == 1
    assert line.out.startswith("claims listening · agent stable")


async def test_metrics_tell_the_version_and_the_hooks(stage):
    stage.counting_hook("10-once")
    daemon = await stage.start()
    await stage.claim(daemon)
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


async def test_the_demo_succeeds(stage):
    typed = await stage.type("demo")
    assert typed.code == 0, typed
    assert "Nothing ran twice, nothing was lost." in typed.out


async def test_what_no_answer_needs_is_loaded_after_the_daemon_listens_and_before_its_first_task(stage):
    daemon = await stage.start(PYTHONPROFILEIMPORTTIME="1")
    await daemon.log("stream.open")
    said = [str(line.get("text", line["event"])) for line in daemon.lines]
    loaded_at = {
        text.rpartition("|")[2].strip(): at for at, text in enumerate(said) if "import time:" in text
    }
    started = said.index("agentd.started")
    for name in ("httpx", "h11", "tenacity"):
        assert started < loaded_at[name] < said.index("stream.open"), name
    assert loaded_at["aiohttp"] < started
