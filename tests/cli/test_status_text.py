"""The words of `agentd status` for a snapshot."""

import pytest

from agentd.cli.status import _snapshot


@pytest.mark.parametrize(
    ("outcomes", "word"),
    [
        (["delivered"], "delivered"),
        (["unsupported"], "kept"),
        (["pending"], "pending"),
        (["refused"], "refused"),
        (["refused", "delivered"], "refused"),
        (["refused", "unsupported"], "refused"),
        (["refused", "pending"], "pending"),
    ],
)
def test_a_snapshot_that_every_open_destination_has_refused_is_refused_and_not_pending(outcomes, word):
    is_open = bool({"refused", "pending"} & set(outcomes))
    outcome = "pending" if is_open else "delivered" if "delivered" in outcomes else "nothing"
    snapshot = {
        "captured_at": "2026-03-02T09:00:00Z",
        "messages": 1,
        "bytes": 99,
        "pending": is_open,
        "last_receipt": {
            "outcome": outcome,
            "destinations": [{"name": "a", "outcome": one, "detail": "404"} for one in outcomes],
        },
    }
    assert _snapshot(snapshot).split(" ")[0] == word
