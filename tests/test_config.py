import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd import config
from agentd.config.formats import loopback_address
from agentd.config.load import FILE_MAX_BYTES
from agentd.config.values import parse
from agentd.errors import ConfigError, ExitCode

NOWHERE = Path("/nonexistent/agentd.toml")
ID = "11111111-1111-4111-8111-111111111111"


def load(
    env: dict[str, str] | None = None, *flags: str, file: Path | None = None, system: Path = NOWHERE
) -> config.Config:
    return config.load(file=file, flags=flags, environ=env or {}, system_file=system)


def refusal(env: dict[str, str] | None = None, *flags: str, file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(env, *flags, file=file)
    assert caught.value.exit_code == ExitCode.CONFIG
    return str(caught.value)


@pytest.fixture
def toml(tmp_path: Path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "agentd.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# Three values for every key in increasing precedence: in TOML, in the environment, as a flag; each with its
# result.
SAMPLES: dict[str, tuple[tuple[str, Any], tuple[str, Any], tuple[str, Any]]] = {
    "coder.url": (
        ('"http://f"', "http://f"),
        ("https://e/x/", "https://e/x"),
        ("http://g:8080", "http://g:8080"),
    ),
    "coder.token": (('"file-token"', "file-token"), ("env-token", "env-token"), ("", None)),
    "coder.token_file": (('"/f"', Path("/f")), ("/e", Path("/e")), ("/g", Path("/g"))),
    "coder.auth": (
        ('"aws-instance-identity"', "aws-instance-identity"),
        ("azure-instance-identity", "azure-instance-identity"),
        ("token", "token"),
    ),
    "coder.agent_name": (('"f"', "f"), ("e", "e"), ("g", "g")),
    "coder.debug_address": (('"h:1"', "h:1"), ("h:2", "h:2"), ("h:3", "h:3")),
    "coder.metadata_url": (('"http://f"', "http://f"), ("http://e", "http://e"), ("http://g", "http://g")),
    "coder.ca_file": (('"/f.pem"', Path("/f.pem")), ("/e.pem", Path("/e.pem")), ("/g.pem", Path("/g.pem"))),
    "coder.client_cert_file": (
        ('"/f.pem"', Path("/f.pem")),
        ("/e.pem", Path("/e.pem")),
        ("/g.pem", Path("/g.pem")),
    ),
    "coder.client_key_file": (
        ('"/f.key"', Path("/f.key")),
        ("/e.key", Path("/e.key")),
        ("/g.key", Path("/g.key")),
    ),
    "coder.headers": ((('["A=f"]'), ("A=f",)), ("A=e,B=2", ("A=e", "B=2")), ("", None)),
    "coder.header_command": (('"echo A=f"', "echo A=f"), ("echo A=e", "echo A=e"), ("", None)),
    "workspace.id": ((f'"{ID}"', ID), (ID.replace("1", "2"), ID.replace("1", "2")), (f"{{{ID}}}", ID)),
    "agent.sources": (('["agentapi"]', ("agentapi",)), ("none", ("none",)), ("auto", ("auto",))),
    "agent.home": (('"/f"', Path("/f")), ("/e", Path("/e")), ("/g", Path("/g"))),
    "agent.directory": (('"/f"', Path("/f")), ("/e", Path("/e")), ("/g", Path("/g"))),
    "agent.poll_interval_s": (("2", 2.0), ("0.5", 0.5), ("3", 3.0)),
    "agentapi.url": (('"http://f"', "http://f"), ("http://e", "http://e"), ("http://g", "http://g")),
    "agentapi.poll_interval_s": (("2", 2.0), ("0.5", 0.5), ("3", 3.0)),
    "agentapi.state_file": (('"/f"', Path("/f")), ("/e", Path("/e")), ("/g", Path("/g"))),
    "agentapi.pid_file": (('"/f"', Path("/f")), ("/e", Path("/e")), ("/g", Path("/g"))),
    "claims.enabled": (("false", False), ("yes", True), ("OFF", False)),
    "claims.hooks_dir": (('"/f"', Path("/f")), ("/e", Path("/e")), ("/g", Path("/g"))),
    "claims.hook_timeout_s": (("1.5", 1.5), ("2", 2.0), ("2.5", 2.5)),
    "claims.max_attempts": (("1", 1), ("2", 2), ("4", 4)),
    "claims.on_interrupted": (('"hold"', "hold"), ("retry", "retry"), ("hold", "hold")),
    "claims.pass_token": (("true", True), ("0", False), ("1", True)),
    "stability.settle_s": (("1", 1.0), ("0", 0.0), ("7.5", 7.5)),
    "stability.hook_timeout_s": (("1", 1.0), ("0.1", 0.1), ("7.5", 7.5)),
    "status.app_slug": (('"f"', "f"), ("e", "e"), ("g", "g")),
    "status.working_max_s": (("60", 60.0), ("0", 0.0), ("7.5", 7.5)),
    "snapshots.task_id": ((f'"{ID}"', ID), (ID.replace("1", "2"), ID.replace("1", "2")), (ID, ID)),
    "snapshots.max_messages": (("1", 1), ("2", 2), ("3", 3)),
    "snapshots.max_bytes": (("256", 256), ("512", 512), ("65536", 65_536)),
    "snapshots.checkpoint_s": (("1", 1.0), ("2", 2.0), ("3", 3.0)),
    "snapshots.upload": (('"stop"', "stop"), ("SETTLE", "settle"), ("stop", "stop")),
    "snapshots.destinations": (
        ('["s3://b/k"]', ("s3://b/k",)),
        ("coder, file:///x", ("coder", "file:///x")),
        ("coder", ("coder",)),
    ),
    "snapshots.http_method": (('"POST"', "POST"), ("put", "PUT"), ("POST", "POST")),
    "snapshots.http_headers_file": (('"/f"', Path("/f")), ("/e", Path("/e")), ("/g", Path("/g"))),
    "snapshots.redact": (("false", False), ("yes", True), ("off", False)),
    "snapshots.redact_env": (('["A_KEY"]', ("A_KEY",)), ("B, C", ("B", "C")), ("D", ("D",))),
    "snapshots.redact_patterns": (
        ('["sk-[a-z]+"]', ("sk-[a-z]+",)),
        ("x+", ("x+",)),
        ('"a{1,2}",b', ("a{1,2}", "b")),
    ),
    "state.dir": (('"/f"', Path("/f")), ("/e", Path("/e")), ("/g", Path("/g"))),
    "local_api.socket": (('"/f.sock"', Path("/f.sock")), ("/e.sock", Path("/e.sock")), ("/g", Path("/g"))),
    "local_api.listen": (
        ('"127.0.0.1:1"', "127.0.0.1:1"),
        ("localhost:2", "localhost:2"),
        ("[::1]:3", "[::1]:3"),
    ),
    "local_api.allowed_hosts": (
        ('["coder.example.com"]', ("coder.example.com",)),
        ("a.example:8443, b.example", ("a.example:8443", "b.example")),
        ("[::2]:80", ("[::2]:80",)),
    ),
    "shutdown.budget_s": (("1", 1.0), ("2", 2.0), ("3", 3.0)),
    "shutdown.grace_s": (("1", 1.0), ("2", 2.0), ("3", 3.0)),
    "shutdown.stop_agent": (("true", True), ("0", False), ("1", True)),
    "log.level": (('"debug"', "debug"), ("WARNING", "warning"), ("error", "error")),
    "log.format": (('"json"', "json"), ("console", "console"), ("auto", "auto")),
}


def test_the_precedence_table_has_every_key():
    assert list(SAMPLES) == list(config.keys())


@pytest.mark.parametrize("name", SAMPLES)
def test_the_precedence_is_flag_environment_file_default(name, toml):
    (in_file, from_file), (in_env, from_env), (flag, from_flag) = SAMPLES[name]
    section, field = name.split(".")
    file = toml(f"[{section}]\n{field} = {in_file}\n")

    found = load(file=file)
    assert (found.value(name), found.origins[name]) == (from_file, f"file {file}")
    for env_name in config.keys()[name].env:
        found = load({env_name: in_env}, file=file)
        assert (found.value(name), found.origins[name]) == (from_env, f"environment {env_name}")
        found = load({env_name: ""}, file=file)
        assert found.value(name) == from_file, "an empty variable counts as unset"
        if from_flag is not None:
            found = load({env_name: in_env}, f"{name}={flag}", file=file)
            assert (found.value(name), found.origins[name]) == (from_flag, "flag --set")


@pytest.mark.parametrize("name", sorted(set(config.keys()) - {"state.dir", "local_api.socket", "agent.home"}))
def test_a_key_without_a_value_has_its_default(name):
    found = load()
    assert (found.value(name), found.origins[name]) == (config.keys()[name].default, "default")


@pytest.mark.parametrize(
    ("coder_name", "own_name"),
    [
        ("CODER_AGENT_URL", "AGENTD_CODER_URL"),
        ("CODER_WORKSPACE_ID", "AGENTD_WORKSPACE_ID"),
        ("CODER_AGENT_TOKEN", "AGENTD_CODER_TOKEN"),
    ],
)
def test_the_variable_of_coder_precedes_that_of_agentd(coder_name, own_name):
    known = {key.env for key in config.keys().values()}
    assert (coder_name, own_name) in known


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("claims.enabled = 1", "claims.enabled: 1 is neither true nor false"),
        ('claims.enabled = "maybe"', "claims.enabled: 'maybe' is neither true nor false"),
        ("claims.max_attempts = true", "claims.max_attempts: True is not a number"),
        ("claims.max_attempts = 2.0", "claims.max_attempts: 2.0 is not a whole number"),
        ('claims.max_attempts = "many"', "claims.max_attempts: 'many' is not a whole number"),
        ("claims.max_attempts = 0", "claims.max_attempts: 0 is out of range"),
        ("claims.max_attempts = []", "claims.max_attempts: is not a number"),
        ("claims.hook_timeout_s = nan", "claims.hook_timeout_s: nan is not a finite number"),
        ('claims.hook_timeout_s = "nan"', "claims.hook_timeout_s: 'nan' is not a finite number"),
        ("claims.hook_timeout_s = inf", "claims.hook_timeout_s: inf is not a finite number"),
        ('claims.hook_timeout_s = "-inf"', "claims.hook_timeout_s: '-inf' is not a finite number"),
        ("claims.hook_timeout_s = 1979-05-27", "claims.hook_timeout_s: is not a number"),
        ("claims.hook_timeout_s = -1", "claims.hook_timeout_s: -1 is out of range"),
        (f"claims.hook_timeout_s = {10**400}", "claims.hook_timeout_s: a number this large is not a number"),
        (f"claims.max_attempts = {10**400}", "claims.max_attempts: a number this large is out of range"),
        (
            f"claims.max_attempts = 0x{'f' * 9000}",
            "claims.max_attempts: a number this large is out of range",
        ),
        (f"claims.max_attempts = {'9' * 5000}", "is not valid TOML"),
        (f"claims.max_attempts = '{'9' * 5000}'", "…"),
        ("snapshots.max_bytes = 65537", "choose a value from 256 to 65536"),
        ("log.level = 3", "log.level: 3 is none of debug, info, warning, error"),
        ('log.level = "loud"', "log.level: 'loud' is none of debug, info, warning, error"),
        ("log.level = ['info']", "log.level: is none of"),
        ("coder.url = 80", "coder.url: 80 must be a string"),
        ('coder.url = "coder.example.com"', "is not an http:// or https:// URL"),
        ('coder.url = "ftp://x"', "is not an http:// or https:// URL"),
        ('coder.url = "http://"', "is not an http:// or https:// URL"),
        ('coder.url = "http://x:0"', "is not an http:// or https:// URL"),
        ('coder.url = "http://x:99999"', "is not a URL"),
        ('coder.url = "http://[::1"', "is not a URL"),
        ('coder.url = "http://ex\\nample"', "is not a URL"),
        ('coder.url = "http://a b"', "is not a URL"),
        ('coder.url = "http://x/?"', "neither credentials nor a query"),
        ('coder.url = "http://x/#"', "neither credentials nor a query"),
        ('workspace.id = "mine"', "workspace.id: 'mine' is not a UUID"),
        (f'workspace.id = "{ID[:-2]}_1"', "is not a UUID"),
        (f'workspace.id = "{ID[:-1]}١"', "is not a UUID"),
        ('state.dir = ""', "state.dir: '' must not be empty"),
        ('state.dir = "a\\u0000b"', "is not a path"),
        ('local_api.listen = "localhost"', "is not a loopback address"),
        ('coder.token = "a\\nb"', "coder.token: contains characters that are not allowed in a header"),
        ('state.dir = "~no-such-user/x"', "there is no home directory"),
        ("state.dir = 1", "state.dir: 1 must be a string"),
        ("snapshots.destinations = 1", "must be a list of strings"),
        ("snapshots.destinations = [1]", "must be a list of strings"),
        ('snapshots.destinations = ["bucket"]', "entry 1 is neither coder nor a URL"),
        ('snapshots.destinations = ["coder", "s3://a b"]', "entry 2 is neither coder nor a URL"),
        ('snapshots.destinations = ["http://[::1"]', "entry 1 is not a URL"),
        ('local_api.listen = "0.0.0.0:80"', "is not a loopback address"),
        ('local_api.listen = "127.0.0.1"', "is not a loopback address"),
        ('local_api.listen = "127.0.0.1:65536"', "is not a loopback address"),
        ('local_api.listen = "127.0.0.1:²"', "is not a loopback address"),
        ('status.app_slug = "a\\u001b[2J"', "cannot be printed"),
    ],
)  # fmt: skip
def test_an_invalid_value_is_refused_with_its_key_and_the_reason(setting, expected, toml):
    file = toml(setting)
    message = refusal(file=file)
    assert expected in message
    assert str(file) in message
    assert len(message) < 500
    assert "\x1b" not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("claims = 3", "claims: is not a table"),
        ("[[claims]]", "claims: is not a table"),
        ("[snapshot]", "snapshot: unknown section"),
        ("[snapshot]", "did you mean snapshots?"),
        ("[snapshots]\ntask = 1", "snapshots.task: unknown key"),
        ("[snapshots]\ntask = 1", "did you mean snapshots.task_id?"),
        ("[coder]\ntask_id = 1", "coder.task_id: unknown key"),
        ("[coder]\ntask_id = 1", "did you mean snapshots.task_id?"),
        ("snapshots.a.b = 1", "snapshots.a: unknown key"),
        ('["claims\\u001b[2J"]', r"claims\x1b[2J: unknown section"),
        (f"[{'x' * 90_000}]", "unknown section"),
        ("[coder", "is not valid TOML"),
        ("x = " + "[" * 50_000, "is not valid TOML"),
        (b"\xff\xfe[coder]", "is not UTF-8 text: invalid start byte at byte 0"),
        (b"#" * (FILE_MAX_BYTES + 1), f"is longer than {FILE_MAX_BYTES} bytes"),
    ],
)
def test_an_invalid_file_is_refused(text, expected, toml):
    message = refusal(file=toml(text))
    assert expected in message
    assert len(message) < 500


def test_a_byte_order_mark_is_accepted(toml):
    assert load(file=toml(b"\xef\xbb\xbf[log]\nlevel='debug'")).log.level == "debug"


def test_a_named_file_must_exist(tmp_path):
    missing = tmp_path / "none.toml"
    assert f"{missing} cannot be read: No such file" in refusal(file=missing)
    assert f"{missing} cannot be read" in refusal({"AGENTD_CONFIG": str(missing)})
    assert "cannot be read: Is a directory" in refusal(file=tmp_path)


def test_the_file_is_that_of_the_flag_else_the_environment_else_the_system(toml, tmp_path):
    by_flag, by_env, system = (tmp_path / name for name in ("flag", "env", "system"))
    for file in (by_flag, by_env, system):
        file.write_text(f"status.app_slug = '{file.name}'")
    env = {"AGENTD_CONFIG": str(by_env)}
    assert load(env, file=by_flag, system=system).status.app_slug == "flag"
    assert load(env, system=system).status.app_slug == "env"
    assert load({}, system=system).status.app_slug == "system"
    assert load({"AGENTD_CONFIG": ""}, system=system).status.app_slug == "system"
    assert load({}, system=system / "below-a-file").status.app_slug == ""


def test_an_unreadable_system_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(system=tmp_path)


@pytest.mark.parametrize(
    ("env_name", "nearest"),
    [
        ("AGENTD_SNAPSHOTS_TASKID", "AGENTD_SNAPSHOTS_TASK_ID"),
        ("AGENTD_SETTLE_S", "AGENTD_STABILITY_SETTLE_S"),
        ("AGENTD_LOGLEVEL", "AGENTD_LOG_LEVEL"),
    ],
)
def test_the_error_for_an_unknown_variable_names_the_nearest_known_one(env_name, nearest):
    message = refusal({env_name: "s3cret-value"})
    assert message == f"{env_name}: unknown variable in the environment; did you mean {nearest}?"


@pytest.mark.parametrize(
    "env_name",
    [
        "AGENTD_SERVICE_HOST",
        "AGENTD_SERVICE_PORT",
        "AGENTD_SERVICE_PORT_HTTP_ALT",
        "AGENTD_PORT",
        "AGENTD_PORT_80_TCP",
        "AGENTD_PORT_80_TCP_PROTO",
        "AGENTD_PORT_80_UDP_ADDR",
        "AGENTD_METRICS_SERVICE_HOST",
        "AGENTD_METRICS_PORT_9090_TCP_ADDR",
        "AGENTD_EVENT_ID",
        "AGENTD_ATTEMPT",
        "AGENTD_CONFIG",
        "agentd_lower",
        "XAGENTD_X",
    ],
)
def test_variables_that_are_not_keys_are_ignored(env_name):
    assert load({env_name: ""}).origins == load().origins


def test_the_environment_of_a_hook_is_a_valid_configuration():
    environ = {
        "AGENTD_WORKSPACE_ID": ID,
        "AGENTD_STATE_DIR": "/s",
        "AGENTD_HOOK": "10-x",
        "AGENTD_OWNER_ID": "",
    }
    found = load(environ)
    assert (found.workspace.id, found.state.dir) == (ID, Path("/s"))


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("hunter2hunter2", "write --set section.key=value"),
        ("snapshots.taskid=1", "snapshots.taskid: unknown key in --set; did you mean snapshots.task_id?"),
        ("coder.token=hunter2hunter2", "secrets are not accepted on the command line"),
        ("coder.headers=A=hunter2hunter2", "secrets are not accepted on the command line"),
        ("log.level=loud", "log.level: 'loud' is none of debug, info, warning, error (flag --set)"),
    ],
)
def test_the_error_for_an_invalid_flag_contains_no_secret(flag, expected):
    message = refusal({}, flag)
    assert expected in message
    assert "hunter2" not in message


def test_the_last_of_two_flags_is_used():
    assert load({}, "log.level=debug", "log.level=error").log.level == "error"


@pytest.mark.parametrize(
    ("raw", "headers"),
    [
        ("Name=value,Name2=value2", ("Name=value", "Name2=value2")),
        ('"X-List=a,b",Y=c', ("X-List=a,b", "Y=c")),
        ('"X-Quoted=say ""hi"""', ('X-Quoted=say "hi"',)),
        ("Cookie=session=abc; b=c", ("Cookie=session=abc; b=c",)),
        ("A=", ("A=",)),
        ("A=b\n", ("A=b",)),
        (" A=b , , C=d ", ("A=b", "C=d")),
    ],
)
def test_headers_have_the_csv_format_of_coder(raw, headers):
    assert load({"CODER_AGENT_HEADER": raw}).coder.headers == headers


def test_a_header_in_a_list_is_not_split(toml):
    assert load(file=toml('coder.headers = ["A=b,c", "D=\\"e\\""]')).coder.headers == ("A=b,c", 'D="e"')


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("hunter2hunter2", "entry 1 is not Name=value"),
        ("A=b,hunter2 x=y", "entry 2 is not Name=value"),
        ("A=hunter2\r\nInjected: yes", "is not a list separated by commas"),
        ('"A=hunter2\r\nInjected: yes"', "entry 1 is not Name=value"),
        ("A=hünter2hunter2", "entry 1 is not Name=value"),
        ('"A=hunter2', "is not a list separated by commas"),
        ('"A=hunter2"x', "is not a list separated by commas"),
        ("Coder-Session-Token=hunter2", "which agentd sets itself"),
        ("content-length=0,hunter2=1", "which agentd sets itself"),
    ],
)
def test_the_error_for_an_invalid_header_does_not_contain_it(raw, expected):
    message = refusal({"CODER_AGENT_HEADER": raw})
    assert expected in message
    assert message.startswith("coder.headers: ")
    assert "hunter2" not in message.removesuffix("hunter2=1")


TOKEN_SOURCES = ["file", "environment", "flag"]


@pytest.mark.parametrize("token_at", TOKEN_SOURCES[:2])
@pytest.mark.parametrize("file_at", TOKEN_SOURCES)
def test_the_token_or_token_file_with_the_higher_precedence_is_used(token_at, file_at, toml):
    text = "[coder]\n" + ("token = 'tttttt'\n" if token_at == "file" else "")
    text += "token_file = '/t'\n" if file_at == "file" else ""
    env = {"CODER_AGENT_TOKEN": "tttttt"} if token_at == "environment" else {}
    env |= {"CODER_AGENT_TOKEN_FILE": "/t"} if file_at == "environment" else {}
    flags = ["coder.token_file=/t"] if file_at == "flag" else []
    found = load(env, *flags, file=toml(text)).coder
    uses_token = TOKEN_SOURCES.index(token_at) >= TOKEN_SOURCES.index(file_at)
    assert (found.token, found.token_file) == (("tttttt", None) if uses_token else ("", Path("/t")))


def test_an_empty_token_file_counts_as_unset(toml):
    found = load({"CODER_AGENT_TOKEN": "tttttt"}, "coder.token_file=", file=toml("coder.token_file = '/t'"))
    assert (found.coder.token, found.coder.token_file) == ("tttttt", None)


def test_a_systemd_credential_is_used_without_another_token(tmp_path):
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load(env).coder.token_file is None
    credential = tmp_path / "coder-agent-token"
    credential.write_text("\n")
    assert load(env).coder.token_file is None, "a blank credential counts as unset, as a blank variable does"
    credential.write_text("tttttt")
    found = load(env)
    assert found.coder.token_file == credential
    assert found.origins["coder.token_file"] == "environment CREDENTIALS_DIRECTORY"
    assert load(env | {"CODER_AGENT_TOKEN": "tttttt"}).coder.token_file is None
    assert load(env | {"CODER_AGENT_TOKEN_FILE": "/t"}).coder.token_file == Path("/t")


def test_an_unreadable_systemd_credential_is_used(tmp_path):
    credential = tmp_path / "coder-agent-token"
    credential.symlink_to(tmp_path / "nowhere")
    assert load({"CREDENTIALS_DIRECTORY": str(tmp_path)}).coder.token_file == credential


def test_differences_are_the_keys_with_other_values():
    changed = load({"AGENTD_LOG_LEVEL": "debug"}, "snapshots.task_id=" + ID)
    assert changed.differences(load()) == {"log.level", "snapshots.task_id"}
    assert load({"AGENTD_LOG_LEVEL": "info"}).differences(load()) == set(), (
        "another origin is not a difference"
    )


@pytest.mark.parametrize(
    ("env", "directory", "origin"),
    [
        ({"STATE_DIRECTORY": "/s"}, "/s", "environment STATE_DIRECTORY"),
        ({"STATE_DIRECTORY": "/s:/t"}, "/s", "environment STATE_DIRECTORY"),
        ({"STATE_DIRECTORY": ":/t"}, "/t", "environment STATE_DIRECTORY"),
        ({"STATE_DIRECTORY": "/s", "XDG_STATE_HOME": "/x"}, "/s", "environment STATE_DIRECTORY"),
        ({"XDG_STATE_HOME": "/x"}, "/x/agentd", "environment XDG_STATE_HOME"),
        ({"AGENTD_STATE_DIR": "/a", "STATE_DIRECTORY": "/s"}, "/a", "environment AGENTD_STATE_DIR"),
    ],
)
def test_the_state_directory_comes_from_the_environment(env, directory, origin):
    found = load(env)
    assert (found.state.dir, found.origins["state.dir"]) == (Path(directory), origin)
    assert found.local_api.socket == Path(directory, "agentd.sock")


@pytest.mark.parametrize(
    ("uid", "env", "directory"),
    [
        (0, {"HOME": "/root"}, "/var/lib/agentd"),
        (1000, {"HOME": "/home/u"}, "/home/u/.local/state/agentd"),
        (1000, {"HOME": "/home/u", "XDG_STATE_HOME": "relative"}, "/home/u/.local/state/agentd"),
        (1000, {}, "/.local/state/agentd"),
    ],
)
def test_the_default_state_directory_depends_on_the_user(uid, env, directory, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert load(env).state.dir == Path(directory)


def test_the_socket_is_in_the_first_runtime_directory():
    found = load({"RUNTIME_DIRECTORY": "/run/agentd:/run/other", "STATE_DIRECTORY": "/s"})
    assert found.local_api.socket == Path("/run/agentd/agentd.sock")
    assert found.origins["local_api.socket"] == "environment RUNTIME_DIRECTORY"


def test_a_relative_path_becomes_absolute_at_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load({}, "state.dir=state").state.dir == tmp_path / "state"
    assert load({}, "state.dir=state").local_api.socket == tmp_path / "state" / "agentd.sock"


def test_a_tilde_is_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/u")
    assert load({}, "claims.hooks_dir=~/hooks").claims.hooks_dir == Path("/home/u/hooks")


def test_a_relative_path_without_a_working_directory_is_refused(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        f"import os; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})\n"
        "from agentd import config\n"
        "config.load(flags=['state.dir=state'], environ={})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "state.dir: 'state' is relative, and there is no working directory" in ended.stderr


def test_the_repr_of_a_configuration_contains_no_secret():
    found = load({"CODER_AGENT_TOKEN": "hunter2hunter2", "CODER_AGENT_HEADER": "A=hunter2hunter2"})
    assert found.coder.token
    assert "hunter2" not in repr(found) + str(found) + repr(found.origins)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("coder.url", "https://user:hunter2@coder.example.com"),
        ("coder.url", "https://coder.example.com?token=hunter2"),
        ("coder.url", "user:hunter2@coder.example.com"),
        ("coder.token", "hunter2\x00\u00fc"),
        ("coder.headers", "hunter2"),
        ("snapshots.destinations", "https://user:hunter2@store.example.com/x"),
        ("coder.url", {"hunter2": "hunter2"}),
        ("coder.url", ["hunter2"]),
    ],
)
def test_no_error_contains_a_secret(name, raw):
    with pytest.raises(ConfigError) as caught:
        parse(config.keys()[name], raw, "test")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__, "a traceback must not contain it either"


def test_the_error_names_what_is_missing_for_coder():
    with pytest.raises(ConfigError, match=r"^coder.url: missing; set CODER_AGENT_URL"):
        load().require_coder()
    with pytest.raises(ConfigError, match=r"^coder.token: missing; set CODER_AGENT_TOKEN"):
        load({"CODER_AGENT_URL": "http://c"}).require_coder()
    for also in ("CODER_AGENT_TOKEN", "CODER_AGENT_TOKEN_FILE"):
        load({"CODER_AGENT_URL": "http://c", also: "/tttttt"}).require_coder()
    load({"CODER_AGENT_URL": "http://c", "CODER_AGENT_AUTH": "aws-instance-identity"}).require_coder()


def test_the_configuration_is_immutable():
    with pytest.raises(AttributeError, match=r"LogSection\.level cannot be changed"):
        load().log.level = "debug"  # type: ignore[misc]  # the assignment must fail


def test_a_section_accepts_only_its_own_keys():
    shutdown = load().shutdown
    assert shutdown.with_values(budget_s=3.0).budget_s == 3.0
    assert shutdown.with_values(budget_s=3.0).grace_s == shutdown.grace_s
    with pytest.raises(TypeError, match="ShutdownSection has no key 'budget'"):
        shutdown.with_values(budget=3.0)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("LocalHost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65_535)),
    ],
)
def test_a_loopback_address_is_parsed(text, address):
    assert loopback_address(text) == address


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def refused(call: Callable[[], Any]) -> str:
    """The error of `call`, "" without one."""
    try:
        call()
    except ConfigError as exc:
        return str(exc)
    return ""


@given(st.sampled_from(list(config.keys())), ANYTHING)
def test_any_value_is_accepted_or_refused_with_the_key(name, raw):
    key = config.keys()[name]
    message = refused(lambda: parse(key, raw, "here"))
    if message:
        assert message.startswith(f"{name}: ")
        assert "(here)" in message
    elif isinstance(raw, int | float):
        assert key.low <= raw <= key.high


SECTIONS = set(config.Config._fields)


@given(text=st.text(st.characters(categories=None, exclude_categories=())))
def test_any_text_as_a_file_is_accepted_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    message = refused(lambda: load(file=path))
    if message:
        assert str(path) in message
    else:
        assert set(tomllib.loads(text.removeprefix("\ufeff"))) <= SECTIONS


ENV_NAMES = {env_name: name for name, key in config.keys().items() for env_name in key.env}


@given(st.dictionaries(st.sampled_from(sorted(ENV_NAMES)), st.text()))
def test_any_environment_is_accepted_or_refused_with_the_key(env):
    message = refused(lambda: load(env))
    assert message == "" or message.split(":")[0] in {ENV_NAMES[env_name] for env_name in env}


@pytest.mark.parametrize("name", ["workspace.id", "snapshots.task_id", "local_api.listen", "status.app_slug"])
def test_an_empty_text_in_a_file_counts_as_unset(name, toml):
    assert load(file=toml(f"{name} = ' '")).value(name) == ""


@pytest.mark.parametrize(
    ("older", "name", "expected"),
    [
        ("", "", 1.0),
        ("2", "", 2.0),
        ("", "3", 3.0),
        ("2", "3", 3.0),
    ],
)
def test_an_older_name_of_a_key_holds_unless_the_key_is_set(older, name, expected):
    environ = {"AGENTD_AGENTAPI_POLL_INTERVAL_S": older, "AGENTD_AGENT_POLL_INTERVAL_S": name}
    assert load(environ).agent.poll_interval_s == expected
