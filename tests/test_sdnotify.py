import os
import socket
from pathlib import Path

import pytest

from agentd.sdnotify import Notifier, watchdog_interval_s


@pytest.fixture
def manager(tmp_path):
    """systemd's end: what it received, in order."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def notifier(address: str | Path) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": str(address)})


def test_the_manager_is_told_in_its_own_words(manager, tmp_path):
    to = notifier(tmp_path / "notify")
    to.send(READY=1, STATUS="listening")
    to.send(STOPPING=1)
    assert manager.recv(4096) == b"READY=1\nSTATUS=listening"
    assert manager.recv(4096) == b"STOPPING=1"
    to.close()
    to.close()


def test_an_abstract_address_is_reached():
    name = f"agentd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(5)
        to = notifier(f"@{name}")
        to.send(WATCHDOG=1)
        assert listening.recv(4096) == b"WATCHDOG=1"
        to.close()


def test_without_a_manager_nothing_is_said():
    for environ in ({}, {"NOTIFY_SOCKET": ""}):
        to = Notifier(environ)
        to.send(READY=1)
        assert to.lost == 0


def test_a_value_cannot_smuggle_in_another_field(manager, tmp_path):
    to = notifier(tmp_path / "notify")
    to.send(STATUS="lost\nMAINPID=1")
    assert manager.recv(4096) == b"STATUS=lost MAINPID=1"
    to.close()


def test_text_that_is_no_unicode_is_sent_all_the_same(manager, tmp_path):
    to = notifier(tmp_path / "notify")
    to.send(STATUS="naïve \udc80")
    assert manager.recv(4096) == "STATUS=naïve ?".encode()
    to.close()


def test_a_manager_that_does_not_read_costs_lines_and_no_time(manager, tmp_path):
    to = notifier(tmp_path / "notify")
    for _ in range(2_000):
        to.send(WATCHDOG=1)
    assert to.lost > 0
    for _ in range(2_000 - to.lost):
        assert manager.recv(4096) == b"WATCHDOG=1"
    to.send(WATCHDOG=1)
    assert manager.recv(4096) == b"WATCHDOG=1", "read again, it is told again"
    to.close()


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/nowhere/notify", "x"),
        ("/" + "x" * 200, "x"),
        ("vsock:2:1234", "x"),
        ("@agentd-nobody", "x" * 10**7),
    ],
)
def test_a_message_that_cannot_be_sent_is_only_counted(address, status):
    to = notifier(address)
    to.send(STATUS=status)
    assert to.lost == 1
    to.close()


def test_the_watchdog_is_fed_twice_as_often_as_asked():
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000"}) == 15
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 15


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "9" * 400},
        {"WATCHDOG_USEC": "9" * 5000},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "me"},
    ],
)
def test_a_watchdog_that_is_not_ours_is_not_fed(environ):
    assert watchdog_interval_s(environ) is None
