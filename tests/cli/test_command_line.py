"""What a person types: the real program as a child process, and its plain functions where that is enough."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd import __version__, cli, config
from agentd.cli import local_client, receipt
from agentd.cli.local_client import DaemonError, call
from agentd.errors import AgentdError, ExitCode, UnavailableError

TOKEN = "hunter2-hunter2"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine on which nothing of agentd is set."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("COVERAGE", "PATH"))}
    return {**kept, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def agentd(env):
    def run(*args: str, **more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "agentd", *args]
        return subprocess.run(
            command, env=env | more, capture_output=True, text=True, check=False, timeout=60
        )

    return run


def test_the_version_is_printed(agentd):
    ended = agentd("--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"agentd {__version__}\n", "")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "usage: agentd"),
        (["dance"], "invalid choice: 'dance'"),
        (["--verbose"], "unrecognized arguments: --verbose"),
        (["status", "--json", "--oneline"], "not allowed with argument"),
        (["status", "--js"], "unrecognized arguments: --js"),
        (["stop", "--timeout", "soon"], "invalid float value: 'soon'"),
        (["config", "burn"], "invalid choice: 'burn'"),
        (["config", "--set"], "expected one argument"),
    ],
)
def test_a_line_that_cannot_be_understood_is_64(agentd, args, said):
    ended = agentd(*args)
    assert (ended.returncode, ended.stdout) == (ExitCode.USAGE, "")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name, capsys):
    assert cli.main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: agentd {name}")
    assert cli.COMMANDS[name][1:].split(",")[0] in " ".join(said.split())


def test_help_names_every_command_and_every_exit_code(capsys):
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert set(cli.COMMANDS) <= set(said.split())
    assert all(f"{code.value} " in said for code in ExitCode)


def test_only_the_command_that_was_typed_is_loaded(agentd):
    ended = agentd("--help", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "agentd.cli" in loaded
    assert not {name for name in loaded if name.startswith("agentd.cli.")}
    assert not loaded & {"aiohttp", "httpx", "structlog", "asyncio"}


def test_a_client_command_loads_no_daemon(agentd):
    ended = agentd("status", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert ended.returncode == ExitCode.UNAVAILABLE
    assert not loaded & {"aiohttp", "httpx", "structlog", "asyncio", "tenacity"}


@pytest.mark.parametrize("args", [["status"], ["status", "--json"], ["status", "--oneline", "--watch"]])
def test_without_a_daemon_a_client_command_is_69(agentd, tmp_path, args):
    ended = agentd(*args, AGENTD_LOCAL_API_SOCKET=str(tmp_path / "none.sock"))
    assert (ended.returncode, ended.stdout) == (ExitCode.UNAVAILABLE, "")
    assert ended.stderr == (
        f"agentd: no agentd listens on {tmp_path}/none.sock; is `agentd run` up with this configuration?\n"
    )


def test_a_wrong_configuration_is_78_in_one_line(agentd):
    for args in (["config"], ["run"], ["status"], ["stop"], ["snapshot"]):
        ended = agentd(*args, AGENTD_LOG_LEVL="debug")
        assert (ended.returncode, ended.stdout) == (ExitCode.CONFIG, "")
        assert ended.stderr == (
            "agentd: AGENTD_LOG_LEVL: unknown variable in the environment; did you mean AGENTD_LOG_LEVEL?\n"
        )


def test_the_configuration_is_shown_with_origins_and_without_secrets(agentd, tmp_path):
    file = tmp_path / "agentd.toml"
    file.write_text(
        "[snapshots]\nmax_messages = 20\ndestinations = ['coder', 'https://s.example.com/x?sig=hunter2']\n"
    )
    environ = {
        "CODER_AGENT_TOKEN": TOKEN,
        "CODER_AGENT_HEADER": f"Cookie={TOKEN}",
        "CODER_AGENT_URL": "http://c",
    }
    args = ["--config", str(file), "--set", "claims.enabled=no"]
    ended = agentd("config", *args, **environ)
    assert ended.returncode == 0
    lines = dict(line.split(maxsplit=1) for line in ended.stdout.splitlines())
    assert list(lines) == list(config.keys())
    assert lines["coder.url"] == "http://c  (environment CODER_AGENT_URL)"
    assert lines["coder.token"] == "[hidden]  (environment CODER_AGENT_TOKEN)"
    assert lines["coder.headers"] == "[hidden]  (environment CODER_AGENT_HEADER)"
    assert lines["snapshots.max_messages"] == f"20  (file {file})"
    assert lines["snapshots.destinations"] == f"coder, https://s.example.com/x?[hidden]  (file {file})"
    assert lines["claims.enabled"] == "false  (flag --set)"
    assert lines["claims.pass_token"] == "false  (default)"
    assert lines["coder.ca_file"] == "-  (default)"

    as_json = agentd("config", "show", "--json", *args, **environ)
    rows = json.loads(as_json.stdout)
    assert list(rows) == list(config.keys())
    assert rows["coder.token"] == {"value": "[hidden]", "origin": "environment CODER_AGENT_TOKEN"}
    assert rows["claims.enabled"] == {"value": False, "origin": "flag --set"}
    assert rows["snapshots.max_messages"]["value"] == 20
    assert "hunter2" not in ended.stdout + ended.stderr + as_json.stdout


def test_a_path_cannot_forge_a_line(agentd):
    ended = agentd("config", AGENTD_STATE_DIR="/x\ncoder.url  evil")
    assert len(ended.stdout.splitlines()) == len(config.keys())
    assert r"'/x\ncoder.url  evil'" in ended.stdout


def test_a_complete_configuration_checks_out_and_an_incomplete_one_is_78(agentd):
    ended = agentd("config", "check", CODER_AGENT_URL="http://c", CODER_AGENT_TOKEN=TOKEN)
    assert (ended.returncode, ended.stdout) == (0, "configuration is complete\n")
    ended = agentd("config", "check", "--json", CODER_AGENT_URL="http://c", CODER_AGENT_TOKEN=TOKEN)
    assert (ended.returncode, ended.stdout) == (0, "{}\n")
    ended = agentd("config", "check", CODER_AGENT_URL="http://c")
    assert ended.returncode == ExitCode.CONFIG
    assert ended.stderr.startswith("agentd: coder.token: missing; set CODER_AGENT_TOKEN")


@pytest.mark.parametrize("args", [["config"], ["--help"], ["config", "--json"]])
def test_a_reader_that_has_seen_enough_is_no_complaint(env, args):
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "agentd", *args], env=env, stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (ExitCode.FAILED, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_process_without_its_streams_still_tells_by_its_code(env, closed):
    for args, code in (("config", 0), ("config check", 78), ("dance", 64)):
        script = f'exec "$0" -m agentd {args} {closed}'
        ended = subprocess.run(
            ["sh", "-c", script, sys.executable], env=env, capture_output=True, check=False
        )
        assert ended.returncode == code
        assert b"Traceback" not in ended.stderr


def test_a_character_the_terminal_cannot_show_is_escaped(agentd):
    ended = agentd("config", AGENTD_STATUS_APP_SLUG="ü", PYTHONIOENCODING="ascii")
    assert r"\xfc  (environment AGENTD_STATUS_APP_SLUG)" in ended.stdout


def test_an_error_of_a_command_is_one_line_and_its_code(monkeypatch, capsys):
    def fail(_args):
        raise AgentdError("it broke", hint="mend it")

    monkeypatch.setattr("agentd.cli.config.run", fail)
    assert cli.main(["config"]) == ExitCode.FAILED
    assert capsys.readouterr().err == "agentd: it broke; mend it\n"


def test_ctrl_c_ends_a_command_as_the_shell_expects(monkeypatch):
    def interrupt(_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("agentd.cli.config.run", interrupt)
    assert cli.main(["config"]) == 130


# What the daemon's end of the socket says is played byte by byte: no server of ours sends these answers.
@pytest.fixture
def answering(tmp_path: Path) -> Iterator:
    path = tmp_path / "s"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen()
    threads = []

    def answer(raw: bytes | None) -> Path:
        def serve() -> None:
            caller, _ = listening.accept()
            with caller:
                caller.recv(65_536)
                if raw is not None:
                    caller.sendall(raw)
                else:
                    caller.recv(1)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return path

    yield answer
    for thread in threads:
        thread.join()
    listening.close()


def reply(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def test_an_answer_is_what_the_daemon_said(answering):
    assert call(answering(reply("200 OK", b'{"a":"\\ud800"}')), "GET", "/v1/status") == {"a": "\ud800"}
    assert call(answering(reply("200 OK", b"")), "POST", "/v1/x", body={"b": 1}) is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            reply("409 Conflict", b'{"message":"It is over.","detail":"start anew"}'),
            "It is over.; start anew",
        ),
        (reply("404 Not Found", b'{"message":"Route not found."}'), "Route not found."),
        (reply("500 Oops", b""), "500 Oops; check local_api.socket (AGENTD_LOCAL_API_SOCKET)"),
        (reply("500 Oops", b"<html>"), "500 Oops; check local_api.socket (AGENTD_LOCAL_API_SOCKET)"),
        (reply("500 Oops", b'["x"]'), "500 Oops; check local_api.socket (AGENTD_LOCAL_API_SOCKET)"),
    ],
)
def test_a_refusal_of_the_daemon_is_in_its_own_words(answering, raw, said):
    with pytest.raises(DaemonError) as caught:
        call(answering(raw), "GET", "/v1/status")
    assert str(caught.value) == said
    assert caught.value.status == int(raw.split()[1])


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "broke off: closed without an answer"),
        (b"SSH-2.0-x\r\n", "broke off: that is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "broke off: the answer ended too early"),
        (reply("200 OK", b"<html>"), "is no agentd; check local_api.socket"),
    ],
)
def test_what_is_no_answer_counts_as_no_daemon(answering, raw, said):
    with pytest.raises(UnavailableError, match="s") as caught:
        call(answering(raw), "GET", "/v1/status")
    assert said in str(caught.value)


def test_a_daemon_that_does_not_answer_is_not_waited_for(answering):
    path = answering(None)
    with pytest.raises(UnavailableError, match=r"did not answer within 0.05 s"):
        call(path, "GET", "/v1/status", timeout_s=0.05)


def test_a_place_without_a_socket_has_no_daemon(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file" / "x", tmp_path / "file"):
        with pytest.raises(UnavailableError, match="no agentd listens on"):
            call(path, "GET", "/v1/status")
    with pytest.raises(UnavailableError, match="path too long"):
        call(tmp_path / ("x" * 200), "GET", "/v1/status")


def test_another_users_socket_is_named(monkeypatch, tmp_path):
    def deny(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(local_client, "_exchange", deny)
    with pytest.raises(
        UnavailableError, match="belongs to another user; run this as the user agentd runs as"
    ):
        call(tmp_path / "s", "GET", "/v1/status")


RECEIPT = {
    "outcome": "delivered",
    "messages": 10,
    "bytes": 12_345,
    "sha256": "0123456789abcdef" * 4,
    "destinations": [
        {"name": "coder", "outcome": "delivered"},
        {"name": "s3", "outcome": "failed", "detail": "no"},
    ],
}


@pytest.mark.parametrize(
    ("changes", "code", "first"),
    [
        ({}, 0, "delivered: 10 messages, 12,345 bytes, sha256 0123456789ab…"),
        ({"messages": 1}, 0, "delivered: 1 message, 12,345 bytes, sha256 0123456789ab…"),
        ({"outcome": "pending"}, 75, "pending: 10 messages, 12,345 bytes, sha256 0123456789ab…; kept in the spool, the next start delivers it"),
        ({"outcome": "nothing", "destinations": []}, 0, "nothing to deliver"),
    ],
)  # fmt: skip
def test_a_receipt_says_what_became_of_the_conversation(changes, code, first, capsys):
    said = RECEIPT | changes
    assert receipt.show(said, as_json=False) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == first
    assert lines[1:] == (["  coder: delivered", "  s3: failed (no)"] if said["destinations"] else [])
    assert receipt.show(said, as_json=True) == code
    assert json.loads(capsys.readouterr().out) == said
