import contextlib
import os
import socket
from pathlib import Path

import pytest

from agentd.sdnotify import Notifier, watchdog_interval_s


@pytest.fixture
def manager(tmp_path):
    """The socket on which systemd receives."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def notifier(address: str | Path) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": str(address)})


def test_fields_are_sent_in_the_format_of_sd_notify(manager, tmp_path):
    to = notifier(tmp_path / "notify")
    to.send(READY=1, STATUS="listening")
    to.send(STOPPING=1)
    assert manager.recv(4096) == b"READY=1\nSTATUS=listening"
    assert manager.recv(4096) == b"STOPPING=1"
    to.close()
    to.close()


def test_an_abstract_socket_is_supported():
    name = f"agentd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(5)
        to = notifier(f"@{name}")
        to.send(WATCHDOG=1)
        assert listening.recv(4096) == b"WATCHDOG=1"
        to.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_without_a_notify_socket_nothing_is_sent(environ):
    to = Notifier(environ)
    to.send(READY=1)
    assert to._socket is None


def test_a_newline_in_a_value_adds_no_field(manager, tmp_path):
    to = notifier(tmp_path / "notify")
    to.send(STATUS="lost\nMAINPID=1")
    assert manager.recv(4096) == b"STATUS=lost MAINPID=1"
    to.close()


def test_a_value_with_surrogates_is_sent(manager, tmp_path):
    to = notifier(tmp_path / "notify")
    to.send(STATUS="naïve \udc80")
    assert manager.recv(4096) == "STATUS=naïve ?".encode()
    to.close()


def test_messages_that_are_not_read_are_dropped_without_blocking(manager, tmp_path):
    to = notifier(tmp_path / "notify")
    for _ in range(2_000):
        to.send(WATCHDOG=1)
    manager.setblocking(False)
    received = 0
    with contextlib.suppress(BlockingIOError):
        while manager.recv(4096) == b"WATCHDOG=1":
            received += 1
    assert 0 < received < 2_000
    to.send(WATCHDOG=1)
    assert manager.recv(4096) == b"WATCHDOG=1", "sends again after the queue is read"
    to.close()


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/nowhere/notify", "x"),
        ("/" + "x" * 200, "x"),
        ("vsock:2:1234", "x"),
        ("@agentd-absent", "x" * 10**7),
    ],
)
def test_a_message_that_cannot_be_sent_raises_no_error(address, status):
    to = notifier(address)
    to.send(STATUS=status)
    to.close()


def test_the_watchdog_interval_is_half_of_what_systemd_allows():
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
def test_without_a_watchdog_for_this_process_there_is_no_interval(environ):
    assert watchdog_interval_s(environ) is None
