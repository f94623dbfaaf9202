"""The stop timeout, from systemd, from the configuration, or unknown."""

import subprocess

import pytest

from agentd import config, stop_timeout
from agentd.stop_timeout import UNKNOWN, StopTimeout

SYSTEM = "0::/system.slice/agentd.service\n"
USER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/agentd.service\n"
SHELL = "0::/user.slice/user-1000.slice/user@1000.service/init.scope\n"


def process(tmp_path, cgroup):
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "cgroup").write_text(cgroup)
    return tmp_path


def fake_systemctl(stop="20s", kind="notify", main=42):
    calls = []

    def systemctl(arguments):
        calls.append(arguments)
        return f"TimeoutStopUSec={stop}\nType={kind}\nMainPID={main}\n"

    return systemctl, calls


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
def test_a_systemd_time_span_is_parsed(tmp_path, span, seconds):
    systemctl, _ = fake_systemctl(stop=span)
    assert stop_timeout.of_unit(42, systemctl=systemctl, proc=process(tmp_path, SYSTEM)).seconds == seconds


def test_the_unit_is_read_from_the_process(tmp_path):
    systemctl, calls = fake_systemctl()
    found = stop_timeout.of_unit(42, systemctl=systemctl, proc=process(tmp_path, SYSTEM))
    assert found == StopTimeout(20, "TimeoutStopSec of agentd.service", extensible=True)
    assert calls[0][-1] == "agentd.service"
    assert "--user" not in calls[0]


def test_a_user_service_is_queried_at_the_user_manager(tmp_path):
    systemctl, calls = fake_systemctl()
    stop_timeout.of_unit(42, systemctl=systemctl, proc=process(tmp_path, USER))
    assert calls[0][0] == "--user"


def test_a_process_that_is_not_the_main_process_cannot_extend_the_timeout(tmp_path):
    systemctl, _ = fake_systemctl(kind="notify", main=7)
    assert not stop_timeout.of_unit(42, systemctl=systemctl, proc=process(tmp_path, SYSTEM)).extensible


@pytest.mark.parametrize("cgroup", [SHELL, "0::/\n", "0::/docker/abc\n", "", "\0"])
def test_outside_a_service_systemctl_is_not_run(tmp_path, cgroup):
    systemctl, calls = fake_systemctl()
    assert stop_timeout.of_unit(42, systemctl=systemctl, proc=process(tmp_path, cgroup)) == UNKNOWN
    assert calls == []


@pytest.mark.parametrize(
    "failure",
    [
        FileNotFoundError("systemctl"),
        subprocess.TimeoutExpired("systemctl", 2),
        subprocess.CalledProcessError(1, "systemctl"),
    ],
)
def test_the_timeout_is_unknown_if_systemctl_fails(tmp_path, failure):
    def systemctl(_arguments):
        raise failure

    assert stop_timeout.of_unit(42, systemctl=systemctl, proc=process(tmp_path, SYSTEM)) == UNKNOWN


def test_the_timeout_is_unknown_if_the_process_is_gone(tmp_path):
    systemctl, _ = fake_systemctl()
    assert stop_timeout.of_unit(43, systemctl=systemctl, proc=tmp_path) == UNKNOWN


def test_the_configured_timeout_overrides_the_units():
    unit = StopTimeout(20, "TimeoutStopSec of agentd.service")
    assert stop_timeout.configured_or(settings(), unit) == unit
    configured = stop_timeout.configured_or(settings(AGENTD_SHUTDOWN_GRACE_S="30"), unit)
    assert (configured.seconds, configured.source) == (30, "environment AGENTD_SHUTDOWN_GRACE_S")


def test_a_default_budget_is_reduced_to_fit_the_timeout():
    fitted = stop_timeout.fit_budget(settings(), StopTimeout(5, "docker"))
    assert fitted.shutdown.budget_s == 5 - stop_timeout.MARGIN_S
    assert fitted.origins["shutdown.budget_s"] == "docker"


@pytest.mark.parametrize(
    "given",
    [UNKNOWN, StopTimeout(30, "x"), StopTimeout(float("inf"), "x"), StopTimeout(5, "x", extensible=True)],
)
def test_a_budget_that_fits_is_kept(given):
    assert stop_timeout.fit_budget(settings(), given).shutdown.budget_s == 8


def test_a_configured_budget_is_kept_and_reported_as_too_long():
    chosen = settings(AGENTD_SHUTDOWN_BUDGET_S="8")
    short = StopTimeout(5, "x")
    assert stop_timeout.fit_budget(chosen, short) is chosen
    assert short.is_enough_for(8) is False
    assert UNKNOWN.is_enough_for(8) is None


def test_the_default_of_the_container_runtime_is_named(tmp_path):
    assert stop_timeout.container_default({}, root=tmp_path) == ""
    assert "30 s" in stop_timeout.container_default({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, root=tmp_path)
    (tmp_path / ".dockerenv").touch()
    assert "10 s" in stop_timeout.container_default({}, root=tmp_path)
