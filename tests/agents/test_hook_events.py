"""Payloads of agents' hooks, reduced to what the daemon gets."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.agents.hook_events import (
    DATAGRAM_MAX_BYTES,
    PAYLOAD_MAX_BYTES,
    STATES,
    TEXT_MAX_BYTES,
    HookEvent,
    decoded,
    reduced,
)

SESSION = "4bfb274f-ee9d-4bac-b59d-b27f0182a749"
BASE = {"session_id": SESSION, "transcript_path": "/home/dev/.claude/x.jsonl", "cwd": "/workspace"}


def event(name, **fields):
    return BASE | {"hook_event_name": name} | fields


def task(kind, status="running"):
    return {"id": "a1", "type": kind, "status": status, "description": "work"}


TOOL = {
    "tool_name": "Bash",
    "tool_input": {"command": "deploy --token=hunter2", "description": "deploy it"},
    "permission_suggestions": [{"type": "setMode"}],
}
ASK = {"tool_name": "AskUserQuestion", "tool_input": {"questions": [{"question": "Which colour?"}]}}
NOTIFY = {
    "type": "agent-turn-complete",
    "thread-id": SESSION,
    "turn-id": "t",
    "cwd": "/workspace",
    "input-messages": ["hello"],
    "last-assistant-message": "Done.",
}


@pytest.mark.parametrize(
    ("agent", "payload", "expected"),
    [
        ("claude-code", event("SessionStart", source="startup"), None),
        ("claude-code", event("UserPromptSubmit", prompt="hello"), ("busy", "")),
        ("claude-code", event("PreToolUse", **TOOL), None),
        ("claude-code", event("PostToolUse", **TOOL, tool_response={"stdout": "x"}), ("busy", "")),
        (
            "claude-code",
            event("PermissionRequest", **TOOL),
            ("waiting", "permission prompt: Bash (deploy it)"),
        ),
        ("claude-code", event("PermissionRequest", **ASK), ("waiting", "Which colour?")),
        ("claude-code", event("PermissionRequest", agent_id="a1", **ASK), ("waiting", "Which colour?")),
        ("claude-code", event("PermissionRequest"), ("waiting", "permission prompt:")),
        (
            "claude-code",
            event("Notification", notification_type="permission_prompt", message="Claude needs you"),
            ("waiting", "Claude needs you"),
        ),
        ("claude-code", event("Notification", notification_type="idle_prompt", message="x"), ("idle", "")),
        ("claude-code", event("Notification", notification_type="auth_success", message="x"), None),
        ("claude-code", event("Stop", last_assistant_message="One.\nTwo.\n"), ("idle", "Two.")),
        ("claude-code", event("Stop", background_tasks=[]), ("idle", "")),
        ("claude-code", event("Stop", background_tasks=[task("subagent")]), ("busy", "")),
        ("claude-code", event("Stop", background_tasks=[task("subagent", "completed")]), ("idle", "")),
        ("claude-code", event("Stop", background_tasks=[task("shell")]), ("idle", "")),
        ("claude-code", event("StopFailure", last_assistant_message="API Error"), ("idle", "API Error")),
        ("claude-code", event("SubagentStop", agent_id="a1"), None),
        ("claude-code", event("UserPromptSubmit", agent_id="a1"), None),
        ("claude-code", event("SessionEnd", reason="other"), ("gone", "")),
        ("codex", event("UserPromptSubmit", turn_id="t", prompt="x"), ("busy", "")),
        ("codex", event("PermissionRequest", **TOOL), ("waiting", "permission prompt: Bash (deploy it)")),
        ("codex", event("Stop", last_assistant_message="Done."), ("idle", "Done.")),
        ("codex", event("Interrupt"), ("idle", "")),
        ("codex", event("Stop", agent_id="a1"), None),
        ("codex", NOTIFY, ("idle", "Done.")),
        ("claude-code", NOTIFY, None),
        ("gemini", event("BeforeAgent", prompt="x"), ("busy", "")),
        ("gemini", event("PreCompress", trigger="auto"), None),
        ("gemini", event("BeforeTool", **TOOL), None),
        (
            "gemini",
            event(
                "Notification",
                notification_type="ToolPermission",
                message="Confirm",
                details={"command": "rm"},
            ),
            ("waiting", "Confirm"),
        ),
        ("gemini", event("Notification", notification_type="Other", message="Confirm"), None),
        ("gemini", event("AfterTool", **TOOL), ("busy", "")),
        ("gemini", event("AfterAgent", prompt="x", prompt_response="Done. "), ("idle", "Done.")),
        ("gemini", event("SessionEnd", reason="exit"), ("gone", "")),
        ("my-agent", {"state": "busy"}, ("busy", "")),
        (
            "my-agent",
            {"state": "waiting", "message": "Which?\nsecond line"},
            ("waiting", "Which? second line"),
        ),
        ("my-agent", {"state": "asleep"}, None),
        ("my-agent", event("UserPromptSubmit"), None),
        ("claude-code", {"state": "idle", "session_id": SESSION}, ("idle", "")),
    ],
)
def test_each_event_of_each_agent_gives_its_state_and_nothing_but_one_text(agent, payload, expected):
    found = reduced(agent, json.dumps(payload).encode())
    assert (None if found is None else (found.state, found.text)) == expected
    if found is not None:
        directory = payload.get("cwd", "")
        session = payload.get("session_id") or payload.get("thread-id", "")
        assert found == HookEvent(agent, session, directory, *expected)
        assert decoded(found.encode()) == found


@pytest.mark.parametrize("agent", ["", "Claude", "../x", "a b", "-x", "a" * 33, "a\n"])
def test_an_agent_with_an_invalid_name_has_no_events(agent):
    assert reduced(agent, b'{"state": "busy"}') is None
    assert decoded(json.dumps([agent, "", "", "busy", ""]).encode()) is None


@pytest.mark.parametrize("session", ["../x", "a/b", ".x", "a b", "x" * 129, "é", "a\n"])
def test_an_event_with_an_invalid_session_id_is_dropped(session):
    assert reduced("my-agent", json.dumps({"state": "busy", "session_id": session}).encode()) is None
    assert decoded(json.dumps(["my-agent", session, "", "busy", ""]).encode()) is None


@pytest.mark.parametrize("directory", ["relative", "/x\ny", "/" + "x" * 2000, 7])
def test_a_directory_that_is_no_path_is_left_out(directory):
    found = reduced("my-agent", json.dumps({"state": "busy", "cwd": directory}).encode())
    assert found.directory == ""


def test_the_fields_before_the_cut_of_a_long_payload_count():
    prompt = event("UserPromptSubmit", prompt="x" * 2 * PAYLOAD_MAX_BYTES)
    found = reduced("claude-code", json.dumps(prompt).encode()[:PAYLOAD_MAX_BYTES])
    assert found == HookEvent("claude-code", SESSION, "/workspace", "busy")


def test_a_cut_stop_of_claude_code_is_not_idle_because_background_tasks_may_run():
    stop = event(
        "Stop", last_assistant_message="x" * 2 * PAYLOAD_MAX_BYTES, background_tasks=[task("subagent")]
    )
    data = json.dumps(stop).encode()[:PAYLOAD_MAX_BYTES]
    assert reduced("claude-code", data) is None
    assert reduced("codex", data).state == "idle"


def test_a_short_payload_that_is_no_json_is_dropped():
    for data in (b"", b"{", b'{"state": "busy"', b"[]", b"null", b"\xff", b'["state"]', b"[" * 100_000):
        assert reduced("my-agent", data) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = ["UserPromptSubmit", "PermissionRequest", "Notification", "Stop", "AfterAgent", "agent-turn-complete"]
PAYLOADS = st.fixed_dictionaries(
    {},
    optional={
        "hook_event_name": st.sampled_from(NAMES) | VALUES,
        "state": st.sampled_from(STATES) | VALUES,
        "type": st.sampled_from(NAMES),
        "notification_type": st.sampled_from(["permission_prompt", "ToolPermission"]) | VALUES,
        **dict.fromkeys(
            ["message", "last_assistant_message", "prompt_response", "session_id", "cwd", "tool_name"], VALUES
        ),
        **dict.fromkeys(["tool_input", "background_tasks", "details", "agent_id"], VALUES),
    },
)


@given(payload=PAYLOADS, agent=st.sampled_from(["claude-code", "codex", "gemini", "my-agent"]))
def test_no_payload_raises_and_every_event_fits_and_survives_the_datagram(payload, agent):
    found = reduced(agent, json.dumps(payload).encode())
    if found is not None:
        assert found.state in STATES
        assert found.text.isprintable()
        assert len(found.text.encode()) <= TEXT_MAX_BYTES
        assert len(found.encode()) <= DATAGRAM_MAX_BYTES
        assert decoded(found.encode()) == found


@given(data=st.binary(max_size=200))
def test_no_datagram_raises(data):
    assert decoded(data) is None or decoded(data).state in STATES


def test_the_longest_event_fits_into_a_datagram():
    payload = {"state": "waiting", "message": "\U0001f600" * 5000, "cwd": "/" + "\U0001f600" * 1023}
    found = reduced("my-agent", json.dumps(payload).encode())
    assert len(found.text) == TEXT_MAX_BYTES // 4
    assert len(found.directory) == 1024
    assert len(found.encode()) <= DATAGRAM_MAX_BYTES
    assert decoded(found.encode()) == found


@pytest.mark.parametrize(
    "datagram", [b"", b"{}", b"[]", b'["my-agent"]', b'["my-agent", "", "", "busy", 1]', b"[" * 9000]
)
def test_a_datagram_that_is_no_event_is_none(datagram):
    assert decoded(datagram) is None


STATES_OF = {
    "UserPromptSubmit": {"busy"},
    "BeforeAgent": {"busy"},
    "PostToolUse": {"busy"},
    "AfterTool": {"busy"},
    "PermissionRequest": {"waiting"},
    "Notification": {"waiting"},
    "Stop": {"idle", "busy"},  # busy while a background agent runs
    "StopFailure": {"idle"},
    "AfterAgent": {"idle"},
    "agent-turn-complete": {"idle"},
    "SessionEnd": {"gone"},
}


@pytest.mark.parametrize("agent", ["claude-code", "codex", "gemini"])
def test_every_recorded_payload_gives_the_state_of_its_event(data_dir, agent):
    count = 0
    for file in sorted((data_dir / "sessions").glob(f"{agent.partition('-')[0]}-*/[hn]o*.jsonl")):
        for line in file.read_text("utf-8").splitlines():
            payload = json.loads(line)["payload"]
            found = reduced(agent, json.dumps(payload).encode())
            name = payload.get("hook_event_name") or payload["type"]
            expected = set() if "agent_id" in payload else STATES_OF.get(name, set())
            assert {found.state} <= expected if found else not expected, payload
            assert found is None or found.session == (payload.get("session_id") or payload["thread-id"])
            count += 1
    assert count > 50
