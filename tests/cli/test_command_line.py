"""The command line, as a child process or by its functions."""

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
from agentd.cli import local_client
from agentd.cli.local_client import DaemonError, call
from agentd.cli.stop import print_receipt
from agentd.errors import AgentdError, ExitCode, UnavailableError

TOKEN = "hunter2-hunter2"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment without any variable of agentd."""
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
    ("args", "error"),
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
def test_an_invalid_command_line_exits_with_64(agentd, args, error):
    ended = agentd(*args)
    assert (ended.returncode, ended.stdout) == (ExitCode.USAGE, "")
    assert error in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_help_text(name, capsys):
    assert cli.main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: agentd {name}")
    assert cli.COMMANDS[name][1:].split(",")[0] in " ".join(printed.split())


def test_the_help_lists_every_command_and_exit_code(capsys):
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert set(cli.COMMANDS) <= set(printed.split())
    assert all(f"{code.value} " in printed for code in ExitCode)


def test_the_help_imports_no_command(agentd):
    ended = agentd("--help", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "agentd.cli" in loaded
    assert not {name for name in loaded if name.startswith("agentd.cli.")}
    assert not loaded & {"aiohttp", "httpx", "structlog", "asyncio"}


def test_a_client_command_does_not_import_the_daemon(agentd):
    ended = agentd("status", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert ended.returncode == ExitCode.UNAVAILABLE
    assert not loaded & {"aiohttp", "httpx", "structlog", "asyncio", "tenacity"}


@pytest.mark.parametrize("args", [["status"], ["status", "--json"], ["status", "--oneline", "--watch"]])
def test_without_a_daemon_a_client_command_exits_with_69(agentd, tmp_path, args):
    ended = agentd(*args, AGENTD_LOCAL_API_SOCKET=str(tmp_path / "none.sock"))
    assert (ended.returncode, ended.stdout) == (ExitCode.UNAVAILABLE, "")
    assert ended.stderr == (
        f"agentd: no agentd listens on {tmp_path}/none.sock; check that `agentd run` is running with this configuration\n"
    )


def test_an_invalid_configuration_exits_with_78_and_one_line(agentd):
    for args in (["config"], ["run"], ["status"], ["stop"], ["snapshot"]):
        ended = agentd(*args, AGENTD_LOG_LEVL="debug")
        assert (ended.returncode, ended.stdout) == (ExitCode.CONFIG, "")
        assert ended.stderr == (
            "agentd: AGENTD_LOG_LEVL: unknown variable in the environment; did you mean AGENTD_LOG_LEVEL?\n"
        )


def test_the_configuration_is_printed_with_origins_and_without_secrets(agentd, tmp_path):
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


def test_a_newline_in_a_path_is_escaped(agentd):
    ended = agentd("config", AGENTD_STATE_DIR="/x\ncoder.url  evil")
    assert len(ended.stdout.splitlines()) == len(config.keys())
    assert r"'/x\ncoder.url  evil'" in ended.stdout


def test_config_check_accepts_a_complete_configuration_and_exits_with_78_otherwise(agentd):
    ended = agentd("config", "check", CODER_AGENT_URL="http://c", CODER_AGENT_TOKEN=TOKEN)
    assert (ended.returncode, ended.stdout) == (0, "configuration is complete\n")
    ended = agentd("config", "check", "--json", CODER_AGENT_URL="http://c", CODER_AGENT_TOKEN=TOKEN)
    assert (ended.returncode, ended.stdout) == (0, "{}\n")
    ended = agentd("config", "check", CODER_AGENT_URL="http://c")
    assert ended.returncode == ExitCode.CONFIG
    assert ended.stderr.startswith("agentd: coder.token: missing; set CODER_AGENT_TOKEN")


@pytest.mark.parametrize("args", [["config"], ["--help"], ["config", "--json"]])
def test_a_closed_pipe_prints_no_error(env, args):
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "agentd", *args], env=env, stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (ExitCode.FAILED, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_the_exit_code_is_right_without_stdout_and_stderr(env, closed):
    for args, code in (("config", 0), ("config check", 78), ("dance", 64)):
        script = f'exec "$0" -m agentd {args} {closed}'
        ended = subprocess.run(
            ["sh", "-c", script, sys.executable], env=env, capture_output=True, check=False
        )
        assert ended.returncode == code
        assert b"Traceback" not in ended.stderr


def test_a_character_outside_the_encoding_is_escaped(agentd):
    ended = agentd("config", AGENTD_STATUS_APP_SLUG="ü", PYTHONIOENCODING="ascii")
    assert r"\xfc  (environment AGENTD_STATUS_APP_SLUG)" in ended.stdout


def test_an_error_of_a_command_is_printed_as_one_line(monkeypatch, capsys):
    def fail(_args):
        raise AgentdError("it broke", hint="correct it")

    monkeypatch.setattr("agentd.cli.config.run", fail)
    assert cli.main(["config"]) == ExitCode.FAILED
    assert capsys.readouterr().err == "agentd: it broke; correct it\n"


def test_ctrl_c_exits_with_130(monkeypatch):
    def interrupt(_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("agentd.cli.config.run", interrupt)
    assert cli.main(["config"]) == 130


# A server that sends fixed bytes, because the daemon does not send these responses.
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


def test_a_response_is_parsed(answering):
    assert call(answering(reply("200 OK", b'{"a":"\\ud800"}')), "GET", "/v1/status") == {"a": "\ud800"}
    assert call(answering(reply("200 OK", b"")), "POST", "/v1/x", body={"b": 1}) is None


@pytest.mark.parametrize(
    ("raw", "message"),
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
def test_an_error_response_becomes_a_daemon_error(answering, raw, message):
    with pytest.raises(DaemonError) as caught:
        call(answering(raw), "GET", "/v1/status")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no valid response from agentd on {path}: it is empty"),
        (b"SSH-2.0-x\r\n", "no valid response from agentd on {path}: it is not HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
            "no valid response from agentd on {path}: it is incomplete",
        ),
        (
            reply("200 OK", b"<html>"),
            "the process that listens on {path} is not agentd; check local_api.socket",
        ),
    ],
)
def test_an_invalid_response_counts_as_no_daemon(answering, raw, message):
    path = answering(raw)
    with pytest.raises(UnavailableError) as caught:
        call(path, "GET", "/v1/status")
    assert str(caught.value).startswith(message.format(path=path))


def test_a_request_has_a_timeout(answering):
    path = answering(None)
    with pytest.raises(UnavailableError, match=r"did not answer within 0.05 s"):
        call(path, "GET", "/v1/status", timeout_s=0.05)


def test_without_a_socket_there_is_no_daemon(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file" / "x", tmp_path / "file"):
        with pytest.raises(UnavailableError, match="no agentd listens on"):
            call(path, "GET", "/v1/status")
    with pytest.raises(UnavailableError, match="path too long"):
        call(tmp_path / ("x" * 200), "GET", "/v1/status")


def test_a_socket_of_another_user_is_an_error(monkeypatch, tmp_path):
    def deny(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(local_client, "_exchange", deny)
    with pytest.raises(
        UnavailableError,
        match=r"cannot connect to .*: it belongs to another user; run this command as agentd's user",
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
        ({"outcome": "pending"}, 75, "pending: 10 messages, 12,345 bytes, sha256 0123456789ab…; kept in the spool; agentd tries again, at the latest at the next start"),
        ({"outcome": "nothing", "destinations": []}, 0, "nothing to deliver"),
    ],
)  # fmt: skip
def test_a_receipt_is_printed_with_its_exit_code(changes, code, first, capsys):
    receipt = RECEIPT | changes
    assert print_receipt(receipt, as_json=False) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == first
    assert lines[1:] == (["  coder: delivered", "  s3: failed (no)"] if receipt["destinations"] else [])
    assert print_receipt(receipt, as_json=True) == code
    assert json.loads(capsys.readouterr().out) == receipt


def test_a_snapshot_that_no_destination_supports_is_not_called_nothing(capsys):
    destinations = [{"name": "coder", "outcome": "unsupported", "detail": "404 Route not found."}]
    receipt = {**RECEIPT, "outcome": "nothing", "destinations": destinations}
    assert print_receipt(receipt, as_json=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        "kept in the spool: 10 messages, 12,345 bytes, sha256 0123456789ab…; no destination supports snapshots",
        "  coder: unsupported (404 Route not found.)",
    ]


LATER = "agentd tries again, at the latest at the next start"


@pytest.mark.parametrize(
    ("outcomes", "tries"),
    [
        (("pending", "delivered"), LATER),
        (("refused", "delivered"), "refused by coder: the next start tries once more"),
        (("refused", "refused"), "refused by coder, s3: the next start tries once more"),
        (("refused", "pending"), f"{LATER}; refused by coder: the next start tries once more"),
    ],
)
def test_a_receipt_states_when_an_undelivered_snapshot_is_tried_again(outcomes, tries, capsys):
    destinations = [
        {"name": name, "outcome": outcome} for name, outcome in zip(("coder", "s3"), outcomes, strict=True)
    ]
    assert print_receipt({**RECEIPT, "outcome": "pending", "destinations": destinations}, as_json=False) == 75
    assert capsys.readouterr().out.splitlines()[0].partition("; ")[2] == f"kept in the spool; {tries}"
