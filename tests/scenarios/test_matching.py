"""The comparison of found values with wanted ones."""

import pytest

from agentd.simulator.scenario.matching import mismatch

FOUND = {"claims": {"state": "settled", "replays": 2}, "runs": ["a 1"], "code": None, "pending": False}


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"claims": {"state": "settled"}},
        {"claims": {"replays": {"at_least": 2, "at_most": 2}}},
        {"claims": {"state": {"one_of": ["settled", "acting"]}}},
        {
            "claims": {
                "state": {"starts_with": "set", "ends_with": "led", "contains": "tt", "matches": "^s.*d$"}
            }
        },
        {"runs": ["a 1"]},
        {"runs": {"contains": "a 1", "lacks": "b 1"}},
        {"code": {"present": False}},
        {"pending": False},
        {"pending": {"not": True}},
    ],
)
def test_equal_values_and_true_operators_match(wanted):
    assert mismatch(FOUND, wanted) is None


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"claims": {"state": "acting"}}, "claims.state: wanted 'acting', found 'settled'"),
        ({"claims": {"state": {"at_least": 1}}}, "claims.state: wanted at_least 1, found 'settled'"),
        ({"claims": {"replays": {"at_least": 3}}}, "claims.replays: wanted at_least 3, found 2"),
        ({"runs": []}, "runs: wanted [], found ['a 1']"),
        ({"runs": {"lacks": "a 1"}}, "runs: wanted lacks 'a 1', found ['a 1']"),
        ({"code": 0}, "code: wanted 0, found None"),
        ({"code": {"deeper": 1}}, "code: wanted {'deeper': 1}, found None"),
        ({"pending": 0}, "pending: wanted 0, found False"),
        ({"nothing": {"present": True}}, "nothing: wanted present True, found None"),
    ],
)
def test_a_difference_is_reported_with_its_path(wanted, message):
    assert mismatch(FOUND, wanted) == message


def test_a_long_value_is_shortened():
    assert len(mismatch({"text": "x" * 100_000}, {"text": "y"})) < 500
