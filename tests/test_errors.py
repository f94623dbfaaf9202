import pytest

from agentd import errors
from agentd.errors import AgentdError, ExitCode


def test_an_error_contains_the_message_and_the_hint():
    error = AgentdError("coder.url: missing", hint="set CODER_AGENT_URL")
    assert str(error) == "coder.url: missing; set CODER_AGENT_URL"
    assert (error.message, error.hint) == ("coder.url: missing", "set CODER_AGENT_URL")


def test_an_error_without_a_hint_is_its_message():
    assert str(AgentdError("it broke")) == "it broke"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.AgentdError, 1),
        (errors.UsageError, 64),
        (errors.UnavailableError, 69),
        (errors.StateError, 73),
        (errors.ConfigError, 78),
        (errors.PeerError, 1),
    ],
)
def test_every_error_has_its_exit_code(kind, code):
    assert kind("x").exit_code == code


def test_the_exit_codes_do_not_change():
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "FAILED": 1,
        "USAGE": 64,
        "UNAVAILABLE": 69,
        "STATE": 73,
        "PENDING": 75,
        "CONFIG": 78,
    }
