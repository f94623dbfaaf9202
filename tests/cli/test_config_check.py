"""What the daemon refuses, `agentd config check` and doctor refuse with the same text."""

import ast
import json
import os

import pytest
from drawing.source import Source

from agentd.cli import main
from agentd.snapshots.destinations.by_url import SCHEMES

SECRET = "sig=of-a-presigned-url"
SOURCE = Source()

# `module.function` that raises the error → the settings of a configuration that it refuses.
REFUSED = {
    "coderd.token._read": {"CODER_AGENT_TOKEN_FILE": "{home}/no-such-file"},
    "coderd.token._read (content)": {"CODER_AGENT_TOKEN_FILE": "{home}/empty"},
    "conversation.redaction._compiled": {"AGENTD_SNAPSHOTS_REDACT_PATTERNS": "(unclosed"},
    "local_api.unix_socket.require_short": {"AGENTD_LOCAL_API_SOCKET": "{home}/" + "s" * 120},
    "snapshots.destinations.by_url.from_url": {"AGENTD_SNAPSHOTS_DESTINATIONS": f"ftp://x/?{SECRET}"},
    "snapshots.destinations.object_store._require_library": {
        "AGENTD_SNAPSHOTS_DESTINATIONS": f"s3://b/?{SECRET}"
    },
    "snapshots.destinations.url_template.require_absolute_path": {
        "AGENTD_SNAPSHOTS_DESTINATIONS": f"file://relative?{SECRET}"
    },
    "proxy.proxy_of": {
        "CODER_AGENT_URL": "https://coder.invalid",
        "HTTPS_PROXY": f"socks5://u:{SECRET}@p:1080",
    },
    "proxy.proxy_of (value)": {
        "CODER_AGENT_URL": "http://coder.invalid",
        "http_proxy": f"http://u:{SECRET}#@p",
    },
    "proxy.proxy_of (CGI)": {
        "CODER_AGENT_URL": "http://coder.invalid",
        "HTTP_PROXY": "p",
        "REQUEST_METHOD": "GET",
    },
    "proxy.proxy_of (destination)": {
        "AGENTD_SNAPSHOTS_DESTINATIONS": "https://h.invalid/",
        "HTTPS_PROXY": "ftp://p",
    },
    "tls._load_client_certificate": {
        "AGENTD_CODER_CLIENT_CERT_FILE": "{home}/empty",
        "CODER_AGENT_URL": "https://127.0.0.1:9",
    },
    "config, a client key alone": {"AGENTD_CODER_CLIENT_KEY_FILE": "{home}/empty"},
    "tls.client_context": {"AGENTD_CODER_CA_FILE": "{home}/empty", "CODER_AGENT_URL": "https://127.0.0.1:9"},
    # Refused when the configuration is read.
    "config, a destination twice": {"AGENTD_SNAPSHOTS_DESTINATIONS": "coder,file:///x/,coder"},
    "config, a URL twice": {
        "AGENTD_SNAPSHOTS_DESTINATIONS": f"https://h/?{SECRET},coder,https://h/?{SECRET}"
    },
    "config, no scheme": {"AGENTD_SNAPSHOTS_DESTINATIONS": "x"},
    "config, no coderd": {"CODER_AGENT_URL": ""},
    "config, no token": {"CODER_AGENT_TOKEN": ""},
}
# Raised after the start, or about the state of the machine: `check` would be right only at its moment.
NOT_A_REFUSAL = {
    "local_api.server._listen_on_tcp": "whether the port is free, which the running daemon itself takes",
    "daemon.build.check": "a headers file is read at each delivery",
}


def raise_sites() -> set[str]:
    """`module.function` for each `raise ConfigError(…)` outside `config/`, which `config.load` covers."""
    found = set()
    for module in SOURCE.paths:
        if module.partition(".")[0] in ("config", "simulator", "doctor", "cli"):
            continue
        for function in ast.walk(SOURCE.tree(module)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                raised = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise)]
                if any(
                    isinstance(exc, ast.Call) and ast.unparse(exc.func) == "ConfigError" for exc in raised
                ):
                    found.add(f"{module}.{function.name}")
    return found


def test_every_error_about_the_configuration_has_a_case():
    cases = {name.partition(" ")[0] for name in REFUSED if not name.startswith("config,")}
    assert raise_sites() == cases | NOT_A_REFUSAL.keys()


@pytest.fixture
def ended(monkeypatch, capsys, tmp_path):
    """`ended(settings, "config", "check")` runs a command here. Returns its exit code, stdout and stderr."""
    (tmp_path / "empty").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)  # obstore is not installed
    for name in list(os.environ):
        if name.startswith(("AGENTD_", "CODER_")):
            monkeypatch.delenv(name)

    def run(settings, *args):
        environ = {
            "CODER_AGENT_URL": "http://127.0.0.1:9",
            "CODER_AGENT_TOKEN": "33333333-3333-4333-8333-333333333333",
            "AGENTD_AGENTAPI_URL": "http://127.0.0.1:9",
            "AGENTD_STATE_DIR": str(tmp_path / "state"),
            **({"CODER_AGENT_TOKEN": ""} if "CODER_AGENT_TOKEN_FILE" in settings else {}),
            **{name: value.format(home=tmp_path) for name, value in settings.items()},
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        code = main(args)
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("case", REFUSED)
def test_config_check_and_doctor_refuse_what_the_daemon_refuses(ended, case):
    settings = REFUSED[case]
    refused, _, text = ended(settings, "run")
    assert refused == 78, text
    assert ended(settings, "config", "check") == (78, "", text)
    assert SECRET not in text

    failed, findings, _ = ended(settings, "doctor", "--json")
    [finding] = [
        one
        for one in json.loads(findings)["checks"]
        if one["check"] in ("config", "token", "tls", "proxy", "daemon") and one["level"] == "fail"
    ]
    assert failed == 1
    assert text.startswith(f"agentd: {finding['cause']}")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot be read: No such file or directory"), ("no colon\n", "line 1 is not `Name: value`")],
)
def test_a_headers_file_that_no_delivery_can_use_is_refused(ended, tmp_path, content, problem):
    file = tmp_path / "headers"
    if content is not None:
        file.write_text(content)
    settings = {"AGENTD_SNAPSHOTS_HTTP_HEADERS_FILE": str(file)}
    assert ended(settings, "config", "check")[0] == 0  # no destination needs it
    code, _, text = ended({**settings, "AGENTD_SNAPSHOTS_DESTINATIONS": "https://h/"}, "config", "check")
    assert code == 78
    assert f"snapshots.http_headers_file: headers file {file}" in text
    assert problem in text


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_config_check_accepts_every_documented_scheme(ended, monkeypatch, scheme):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    settings = {"AGENTD_SNAPSHOTS_DESTINATIONS": f"coder,{scheme}:///tmp/x?a,{scheme}:///tmp/x?b"}
    assert ended(settings, "config", "check")[0] == 0


def test_config_check_creates_nothing(ended, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert ended({}, "config", "check") == (0, "configuration is complete\n", "")
    assert sorted(tmp_path.rglob("*")) == before
