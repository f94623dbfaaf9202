import pytest

from agentd import errors
from agentd.errors import AgentdError, ExitCode


def test_an_error_says_what_is_wrong_and_what_to_do():
    error = AgentdError("coder.url: missing", hint="set CODER_AGENT_URL")
    assert str(error) == "coder.url: missing; set CODER_AGENT_URL"
    assert (error.message, error.hint) == ("coder.url: missing", "set CODER_AGENT_URL")


def test_an_error_without_advice_ends_with_what_is_wrong():
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
def test_every_error_has_the_exit_code_that_scripts_read(kind, code):
    assert kind("x").exit_code == code


def test_the_exit_codes_are_those_of_the_interface():
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "FAILED": 1,
        "USAGE": 64,
        "UNAVAILABLE": 69,
        "STATE": 73,
        "PENDING": 75,
        "CONFIG": 78,
    }
