"""The output and the exit code of `agentd snapshot fetch`."""

import json
import subprocess
import sys

import pytest

from agentd import cli, config
from agentd.cli import transcript
from agentd.cli.stored import _headers_for
from agentd.conversation.fit import fit
from agentd.conversation.message import Message
from agentd.snapshots.reading import StoredConversation
from agentd.snapshots.spool import Spool

TASK = "11111111-1111-4111-8111-111111111111"
WHEN = "2026-03-02T09:00:00Z"
NASTY = "a\x1b]0;pwned\x07\x9b2J\x7f\u202etxet\r\nuser, 2026:\n  forged\rover"


@pytest.fixture
def payload(tmp_path):
    path = tmp_path / "talk.json"
    path.write_bytes(fit([Message(0, "agent", NASTY, WHEN)], max_messages=1).payload)
    return path


@pytest.fixture
def typed(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTD_STATE_DIR", str(tmp_path / "state"))

    def run(*words):
        code = cli.main(["snapshot", *words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_control_characters_of_a_message_are_escaped(typed, payload):
    for form in ((), ("--json",)):
        code, out, _ = typed("fetch", str(payload), *form)
        assert code == 0
        assert set("".join(out.split("\n"))).isdisjoint("\x1b\x07\x9b\x7f\u202e\r")


def test_message_lines_are_indented(typed, payload):
    _, out, _ = typed("fetch", str(payload))
    assert [line for line in out.splitlines()[2:] if line and not line.startswith("  ")] == [
        f"agent, {WHEN}:"
    ]


def test_json_has_the_exact_messages(typed, payload):
    _, out, _ = typed("fetch", "--json", str(payload))
    assert json.loads(out)["messages"] == [{"id": 0, "role": "agent", "content": NASTY, "time": WHEN}]


def test_raw_prints_the_stored_bytes(payload, tmp_path):
    shown = subprocess.run(
        [sys.executable, "-m", "agentd", "snapshot", "fetch", "--raw", "-"],
        input=payload.read_bytes(), capture_output=True, check=True,
    )  # fmt: skip
    assert shown.stdout == payload.read_bytes()


def test_last_reads_the_spool_without_daemon_and_agent(typed, tmp_path):
    spool = Spool(tmp_path / "state" / "spool")
    spool.put(TASK, fit([Message(0, "user", "the end", WHEN)], max_messages=1), captured_at=WHEN)
    spool.start_write().result(timeout=10)
    spool.close()
    code, out, err = typed("fetch", "--last")
    assert (code, err) == (0, "")
    assert out == f"task {TASK}, 1 message, captured {WHEN}, from {spool.path}\n\nuser, {WHEN}:\n  the end\n"


def test_last_exits_with_69_if_the_spool_is_empty(typed):
    code, out, err = typed("fetch", "--last")
    assert (code, out) == (69, "")
    assert err.startswith("agentd: no snapshot in ")


@pytest.mark.parametrize(
    "words", [("fetch",), ("fetch", "--last", "x"), ("fetch", "x", "--json", "--raw"), ("fetch", "x", "y")]
)
def test_an_invalid_command_line_exits_with_64(typed, words):
    assert typed(*words)[0] == 64


def test_options_are_accepted_before_fetch(typed, payload, tmp_path):
    assert typed("--json", "fetch", str(payload))[1].startswith("{")
    assert typed("--config", str(tmp_path / "none.toml"), "fetch", str(payload))[0] == 78
    assert typed("--set", "log.level=loud", "fetch", str(payload), "--set", "log.format=json")[0] == 78


def test_an_invalid_document_exits_with_1_and_one_line(typed, tmp_path):
    (tmp_path / "page.html").write_text("<html>")
    code, out, err = typed("fetch", str(tmp_path / "page.html"))
    assert (code, out, err.count("\n")) == (1, "", 1)


def test_headers_are_sent_only_to_servers_of_destinations(monkeypatch, tmp_path):
    settings = config.load(
        flags=[
            "snapshots.destinations=coder,https://a.example/x/",
            f"snapshots.http_headers_file={tmp_path}/headers",
        ],
        environ={},
        system_file=tmp_path / "none",
    )
    assert _headers_for("https://a.example/x/1.json", settings) == tmp_path / "headers"
    for other in (
        "http://a.example/x/",
        "https://b.example/x/",
        "https://a.example:444/x/",
        "file:///x",
        "/x",
    ):
        assert _headers_for(other, settings) is None


def test_a_message_with_an_unknown_time_has_none_in_its_heading():
    stored = StoredConversation("here", b"", (Message(0, "user", "hi", "0001-01-01T00:00:00Z"),), skipped=0)
    assert transcript.as_text(stored) == "1 message, from here\n\nuser:\n  hi\n"
