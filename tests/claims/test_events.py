"""Parsing of claim events: both spellings, nil and missing ids, and payloads that are not a claim."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.claims.events import ClaimEvent, Ignored, parse

W = "11111111-1111-4111-8111-111111111111"
OWNER = "22222222-2222-4222-8222-222222222222"
NIL = "00000000-0000-0000-0000-000000000000"
REASON = "prebuild_claimed"


@pytest.mark.parametrize(
    ("payload", "event"),
    [
        pytest.param({"workspace_id": W, "reason": REASON, "owner_id": OWNER}, (W, OWNER), id="since v2.32"),
        pytest.param({"WorkspaceID": W, "reason": REASON}, (W, None), id="up to v2.31"),
        pytest.param({"workspace_id": W, "reason": REASON}, (W, None), id="no owner"),
        pytest.param({"workspace_id": W, "reason": REASON, "owner_id": NIL}, (W, None), id="nil owner"),
        pytest.param({"workspace_id": W, "reason": REASON, "owner_id": None}, (W, None), id="null owner"),
        pytest.param({"workspace_id": NIL, "reason": REASON}, (None, None), id="nil workspace of a rolling upgrade"),
        pytest.param({"workspace_id": NIL, "WorkspaceID": W, "reason": REASON}, (W, None), id="one of two is nil"),
        pytest.param({"reason": REASON, "owner_id": OWNER}, (None, OWNER), id="no workspace"),
        pytest.param({"workspace_id": W.upper(), "reason": REASON, "owner_id": OWNER.upper()}, (W, OWNER), id="upper case"),
        pytest.param({"workspace_id": W, "reason": REASON, "new": [1]}, (W, None), id="unknown keys"),
    ],
)  # fmt: skip
def test_every_form_of_the_payload_is_parsed(
    payload: dict[str, object], event: tuple[str | None, str | None]
) -> None:
    assert parse("data", json.dumps(payload)) == ClaimEvent(*event, REASON)


@pytest.mark.parametrize(
    ("kind", "data", "words", "fault"),
    [
        ("data", json.dumps({"workspace_id": W, "reason": "rebooted"}), "unknown reason 'rebooted'", False),
        ("message", "{}", "unknown event type 'message'", False),
        ("DATA", "{}", "unknown event type", False),
        ("error", '{"message":"x"}', "the server reports an error", True),
        ("data", "", "payload is not JSON", True),
        ("data", "{", "payload is not JSON", True),
        ("data", "[" * 60_000, "payload is not JSON", True),
        ("data", "9" * 5_000, "payload is not JSON", True),
        ("data", "[]", "payload is not a JSON object", True),
        ("data", "null", "payload is not a JSON object", True),
        ("data", json.dumps({"workspace_id": W}), "has no reason", True),
        ("data", json.dumps({"workspace_id": W, "reason": 1}), "has no reason", True),
        (
            "data",
            json.dumps({"workspace_id": "x" * 500, "reason": REASON}),
            "workspace_id is not a UUID",
            True,
        ),
        (
            "data",
            json.dumps({"workspace_id": W[:-1] + "\n", "reason": REASON}),
            "workspace_id is not a UUID",
            True,
        ),
        ("data", json.dumps({"workspace_id": 7, "reason": REASON}), "workspace_id is not a UUID", True),
        (
            "data",
            json.dumps({"workspace_id": W, "owner_id": "me", "reason": REASON}),
            "owner_id is not a UUID",
            True,
        ),
        (
            "data",
            json.dumps({"workspace_id": W, "WorkspaceID": OWNER, "reason": REASON}),
            "two workspaces",
            True,
        ),
    ],
)
def test_an_event_that_is_not_a_claim_is_ignored_with_a_reason(
    kind: str, data: str, words: str, fault: bool
) -> None:
    ignored = parse(kind, data)
    assert isinstance(ignored, Ignored)
    assert words in ignored.reason
    assert ignored.fault is fault
    assert len(ignored.reason) < 300


def test_a_claim_of_another_workspace_is_ignored() -> None:
    data = json.dumps({"workspace_id": W, "reason": REASON})
    ignored = parse("data", data, workspace_id=OWNER)
    assert isinstance(ignored, Ignored)
    assert W in ignored.reason
    assert OWNER in ignored.reason
    assert isinstance(parse("data", data, workspace_id=W.upper()), ClaimEvent)


@given(st.sampled_from(["data", "error", "message"]), st.text() | st.recursive(st.none() | st.text() | st.integers() | st.floats(), lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["workspace_id", "WorkspaceID", "reason", "owner_id"]), x)).map(json.dumps))  # fmt: skip
def test_no_payload_raises(kind: str, data: str) -> None:
    assert isinstance(parse(kind, data), ClaimEvent | Ignored)
