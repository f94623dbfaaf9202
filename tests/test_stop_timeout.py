"""How long we are given, as systemd, an operator or nobody tells."""

import subprocess

import pytest

from agentd import config
from agentd import stop_timeout as grace
from agentd.stop_timeout import UNKNOWN, Grace

SYSTEM = "0::/system.slice/agentd.service\n"
USER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/agentd.service\n"
SHELL = "0::/user.slice/user-1000.slice/user@1000.service/init.scope\n"


def process(tmp_path, cgroup):
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "cgroup").write_text(cgroup)
    return tmp_path


def systemd(stop="20s", kind="notify", main=42):
    asked = []

    def ask(arguments):
        asked.append(arguments)
        return f"TimeoutStopUSec={stop}\nType={kind}\nMainPID={main}\n"

    return ask, asked


def settings(**environ):
    return config.load(environ={"HOME": "/home/x", **environ})


@pytest.mark.parametrize(
    ("span", "seconds"),
    [
        ("20s", 20),
        ("1min 30s", 90),
        ("500ms", 0.5),
        ("1h 5min", 3900),
        ("infinity", float("inf")),
        ("", None),
        ("a while", None),
    ],
)
def test_systemds_time_is_read_as_it_writes_it(tmp_path, span, seconds):
    ask, _ = systemd(stop=span)
    assert grace.of_unit(42, ask=ask, proc=process(tmp_path, SYSTEM)).seconds == seconds


def test_the_unit_is_the_one_the_process_runs_in(tmp_path):
    ask, asked = systemd()
    found = grace.of_unit(42, ask=ask, proc=process(tmp_path, SYSTEM))
    assert found == Grace(20, "TimeoutStopSec of agentd.service", extensible=True)
    assert asked[0][-1] == "agentd.service"
    assert "--user" not in asked[0]


def test_a_users_service_is_asked_of_the_users_manager(tmp_path):
    ask, asked = systemd()
    grace.of_unit(42, ask=ask, proc=process(tmp_path, USER))
    assert asked[0][0] == "--user"


def test_a_process_in_another_units_service_cannot_ask_for_more(tmp_path):
    ask, _ = systemd(kind="notify", main=7)
    assert not grace.of_unit(42, ask=ask, proc=process(tmp_path, SYSTEM)).extensible


@pytest.mark.parametrize("cgroup", [SHELL, "0::/\n", "0::/docker/abc\n", "", "\0"])
def test_outside_a_service_nobody_is_asked(tmp_path, cgroup):
    ask, asked = systemd()
    assert grace.of_unit(42, ask=ask, proc=process(tmp_path, cgroup)) == UNKNOWN
    assert asked == []


@pytest.mark.parametrize(
    "failure",
    [
        FileNotFoundError("systemctl"),
        subprocess.TimeoutExpired("systemctl", 2),
        subprocess.CalledProcessError(1, "systemctl"),
    ],
)
def test_a_systemd_that_does_not_answer_tells_nothing(tmp_path, failure):
    def ask(_arguments):
        raise failure

    assert grace.of_unit(42, ask=ask, proc=process(tmp_path, SYSTEM)) == UNKNOWN


def test_a_process_that_has_gone_tells_nothing(tmp_path):
    ask, _ = systemd()
    assert grace.of_unit(43, ask=ask, proc=tmp_path) == UNKNOWN


def test_the_operators_word_is_stronger_than_systemds():
    unit = Grace(20, "TimeoutStopSec of agentd.service")
    assert grace.of(settings(), unit) == unit
    told = grace.of(settings(AGENTD_SHUTDOWN_GRACE_S="30"), unit)
    assert (told.seconds, told.told_by) == (30, "environment AGENTD_SHUTDOWN_GRACE_S")


def test_a_budget_nobody_chose_shrinks_into_the_grace():
    fitted = grace.fitted(settings(), Grace(5, "the container"))
    assert fitted.shutdown.budget_s == 5 - grace.MARGIN_S
    assert fitted.origins["shutdown.budget_s"] == "the container"


@pytest.mark.parametrize(
    "given", [UNKNOWN, Grace(30, "x"), Grace(float("inf"), "x"), Grace(5, "x", extensible=True)]
)
def test_a_budget_that_fits_stays(given):
    assert grace.fitted(settings(), given).shutdown.budget_s == 8


def test_a_budget_that_was_chosen_stays_and_is_known_not_to_fit():
    chosen = settings(AGENTD_SHUTDOWN_BUDGET_S="8")
    short = Grace(5, "x")
    assert grace.fitted(chosen, short) is chosen
    assert short.is_enough_for(8) is False
    assert UNKNOWN.is_enough_for(8) is None


def test_a_container_is_told_what_its_kind_gives(tmp_path):
    assert grace.container({}, root=tmp_path) == ""
    assert "30 s" in grace.container({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, root=tmp_path)
    (tmp_path / ".dockerenv").touch()
    assert "10 s" in grace.container({}, root=tmp_path)
