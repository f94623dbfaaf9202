"""The datagram socket that takes the events of agents' hooks."""

import asyncio
import os
import socket
import stat

import pytest
from metric_values import value_of
from structlog.testing import capture_logs

from agentd.agents.hook_events import DATAGRAM_MAX_BYTES, HookEvent
from agentd.agents.hook_socket import EVENTS_MAX, HookSocket
from agentd.metrics import Registry

EVENT = HookEvent("my-agent", "s-1", "/workspace", "busy")


class Taking:
    def __init__(self, folder, clock):
        self.taken, self.metrics = [], Registry()
        self.path = folder / "agentd.sock.hook"
        self.socket = HookSocket(
            folder / "agentd.sock", take=self.taken.append, clock=clock, metrics=self.metrics
        )

    def send(self, *datagrams):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.connect(str(self.path))
            for datagram in datagrams:
                sender.send(datagram)

    def count(self, outcome):
        return value_of(self.metrics, "agentd_agent_hook_events_total", outcome=outcome)


@pytest.fixture
async def taking(tmp_path, fake_clock):
    taking = Taking(tmp_path, fake_clock.as_clock())
    taking.socket.open()
    yield taking
    taking.socket.close()


async def settled():
    await asyncio.sleep(0.02)


async def test_an_event_is_taken_and_the_socket_is_private_and_removed(taking):
    assert stat.S_IMODE(taking.path.stat().st_mode) == 0o600
    taking.send(EVENT.encode())
    await settled()
    assert taking.taken == [EVENT]
    assert taking.count("taken") == 1
    taking.socket.close()
    taking.socket.close()
    assert not taking.path.exists()


async def test_malformed_datagrams_are_counted_and_logged_once(taking):
    with capture_logs() as logs:
        taking.send(b"", b"{", b"[]", b"x" * (DATAGRAM_MAX_BYTES + 100))
        await settled()
    assert (taking.taken, taking.count("malformed")) == ([], 4)
    assert [line["event"] for line in logs] == ["agent.hook_malformed"]


async def test_a_flood_blocks_neither_the_sender_nor_the_daemon(taking):
    sent = 0
    for _ in range(100 * EVENTS_MAX):
        try:
            taking.send(EVENT.encode())
        except BlockingIOError:
            await asyncio.sleep(0)
        else:
            sent += 1
            await asyncio.sleep(0)
    await settled()
    assert len(taking.taken) == EVENTS_MAX
    assert sent <= EVENTS_MAX + 30  # the kernel's queue (net.unix.max_dgram_qlen)


async def test_the_socket_of_a_daemon_that_was_killed_is_replaced(taking, tmp_path, fake_clock):
    again = Taking(tmp_path, fake_clock.as_clock())
    again.socket.open()
    again.send(EVENT.encode())
    await settled()
    assert again.taken == [EVENT]
    again.socket.close()


@pytest.mark.parametrize("unusable", ["a file is there", "the folder is gone", "the path is too long"])
async def test_without_a_usable_path_the_daemon_goes_on(tmp_path, fake_clock, unusable):
    folder = tmp_path / "gone" if unusable == "the folder is gone" else tmp_path
    if unusable == "the path is too long":
        folder = tmp_path / ("x" * 100)
        folder.mkdir()
    taking = Taking(folder, fake_clock.as_clock())
    if unusable == "a file is there":
        taking.path.write_text("mine")
    with capture_logs() as logs:
        taking.socket.open()
    taking.socket.close()
    assert [line["event"] for line in logs] == ["agent.hook_socket_unusable"]
    assert os.path.lexists(taking.path) == (unusable == "a file is there")
