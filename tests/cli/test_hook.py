"""`agentd hook`, as an agent calls it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import tomllib

import pytest

from agentd import cli
from agentd.agents.hook_events import HookEvent, decoded, reduced
from agentd.errors import ExitCode

PAYLOAD = b'{"hook_event_name": "UserPromptSubmit", "session_id": "s-1", "cwd": "/w", "prompt": "secret"}'
EVENT = HookEvent("claude-code", "s-1", "/w", "busy")


@pytest.fixture
def env(tmp_path):
    kept = {name: value for name, value in os.environ.items() if name.startswith(("COVERAGE", "PATH"))}
    return {**kept, "HOME": str(tmp_path), "AGENTD_LOCAL_API_SOCKET": str(tmp_path / "agentd.sock")}


@pytest.fixture
def daemon(tmp_path):
    """The socket that a daemon would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(str(tmp_path / "agentd.sock.hook"))
        yield listening


@pytest.fixture
def hook(env):
    def run(*words, data=PAYLOAD, **more):
        command = [sys.executable, "-m", "agentd", "hook", *words]
        given = {"stdin": data} if isinstance(data, int) else {"input": data}
        ended = subprocess.run(command, env=env | more, capture_output=True, check=False, timeout=60, **given)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")

    return run


def test_an_event_is_one_datagram_with_nothing_else_of_the_payload(hook, daemon):
    hook("claude-code")
    datagram = daemon.recv(4096)
    assert decoded(datagram) == EVENT
    assert b"secret" not in datagram
    with pytest.raises(BlockingIOError):
        daemon.recv(4096)


def test_codex_notify_passes_the_event_as_an_argument(hook, daemon):
    hook("codex", '{"type": "agent-turn-complete", "thread-id": "s-1"}', data=subprocess.DEVNULL)
    assert decoded(daemon.recv(4096)) == HookEvent("codex", "s-1", "", "idle")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff" * 100, b"[]", b'{"state": 1}'])
def test_an_event_that_is_not_understood_is_dropped(hook, daemon, data):
    hook("claude-code", data=data)
    with pytest.raises(BlockingIOError):
        daemon.recv(4096)


def test_a_payload_of_many_megabytes_is_read_to_its_end_and_its_event_is_sent(hook, daemon):
    """An agent that cannot write its payload reports a broken pipe."""
    hook("claude-code", data=PAYLOAD[:-1] + b', "more": "' + b"x" * (3 << 20) + b'"}')
    assert decoded(daemon.recv(4096)) == EVENT


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"AGENTD_LOG_LEVL": "debug"},
        {"AGENTD_CONFIG": "/nonexistent.toml"},
        {"AGENTD_LOCAL_API_SOCKET": "/" + "x" * 200},
        {"AGENTD_LOCAL_API_SOCKET": "", "HOME": ""},
    ],
)
def test_without_a_daemon_or_a_valid_configuration_it_is_silent_and_exits_with_0(hook, environ):
    hook("claude-code", **environ)


def test_a_full_queue_drops_the_event(hook, daemon, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        sender.connect(str(tmp_path / "agentd.sock.hook"))
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send(b"x")
    hook("claude-code")


def test_it_ends_within_200_ms_also_when_stdin_stays_open(env, tmp_path):
    """The shortest of several runs: the tests share the machine."""
    read_end, write_end = os.pipe()
    took = {"open": 60.0, "closed": 60.0}
    for name in [*took] * 5:
        stdin = read_end if name == "open" else subprocess.DEVNULL
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "agentd", "hook", "claude-code"],
            env={one: value for one, value in env.items() if "COV" not in one}, stdin=stdin, check=True, timeout=60,
        )  # fmt: skip
        took[name] = min(took[name], time.monotonic() - began)
    os.close(read_end)
    os.close(write_end)
    assert max(took.values()) < 0.2, took


def test_it_imports_nothing_heavy(env):
    command = [sys.executable, "-X", "importtime", "-m", "agentd", "hook", "claude-code"]
    ended = subprocess.run(command, env=env, input=PAYLOAD, capture_output=True, check=True, timeout=60)
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.decode().splitlines()}
    assert "agentd.agents.hook_events" in loaded
    assert not loaded & {"aiohttp", "httpx", "structlog", "asyncio", "subprocess", "agentd.agents.agent"}


@pytest.mark.parametrize(
    ("agent", "parse"), [("claude-code", json.loads), ("codex", tomllib.loads), ("gemini", json.loads)]
)
def test_install_prints_settings_whose_events_are_all_known(capsys, agent, parse):
    assert cli.main(["hook", "install", agent, "--print"]) == 0
    printed = capsys.readouterr()
    hooks = parse(printed.out)["hooks"]
    assert printed.err.startswith("Write this to ")
    for event, groups in hooks.items():
        [call] = groups[0]["hooks"]
        assert (call["type"], call["command"]) == ("command", f"agentd hook {agent}")
        kinds = ["permission_prompt", "ToolPermission", ""]
        payloads = [{"hook_event_name": event, "notification_type": kind} for kind in kinds]
        assert any(reduced(agent, json.dumps(payload).encode()) for payload in payloads), event


@pytest.mark.parametrize("words", [["install"], ["install", "emacs", "--print"], ["install", "claude-code"]])
def test_install_writes_nothing_unasked(capsys, words):
    assert cli.main(["hook", *words]) == ExitCode.USAGE
    assert capsys.readouterr().out == ""
