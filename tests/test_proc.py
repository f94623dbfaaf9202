import os
import subprocess
import sys

import pytest

from agentd.proc import (
    ListeningSocket,
    ProcessIdentity,
    ProcessStat,
    all_stats,
    boot_id,
    identify,
    listening_sockets,
    read_stat,
)

# The fields of proc(5) after the name: state, ppid, pgrp, session, …, starttime as the 22nd field of the
# line.
FIELDS = "S 7 8 9 " + " ".join(["0"] * 15) + " 12345 0 0"


@pytest.fixture
def proc(tmp_path):
    def add(pid: int, line: bytes) -> None:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_bytes(line)

    add(42, f"42 (sleep) {FIELDS}\n".encode())
    add(43, f"43 (a) Z 1 b)) {FIELDS}\n".encode())
    add(44, b"44 (n\xffme) Z 1 1 1 " + b"0 " * 15 + b"99\n")
    add(45, b"torn")
    add(46, b"46 (short) S 1\n")
    (tmp_path / "self").mkdir()
    return tmp_path


@pytest.mark.parametrize("pid", [42, 43])
def test_state_parent_session_and_start_are_read_whatever_the_name_contains(proc, pid):
    assert read_stat(pid, proc=proc) == ProcessStat(pid, "S", parent=7, session=9, start_ticks=12345)


def test_a_missing_or_malformed_line_is_none(proc):
    assert [read_stat(pid, proc=proc) for pid in (45, 46, 47)] == [None, None, None]


def test_all_stats_skips_what_cannot_be_read(proc):
    assert sorted(stat.pid for stat in all_stats(proc=proc)) == [42, 43, 44]


def test_the_kernels_line_of_this_process_is_understood():
    stat = read_stat(os.getpid())
    assert stat is not None
    assert (stat.parent, stat.session, stat.state) == (os.getppid(), os.getsid(0), "R")
    assert stat in [one._replace(state=stat.state) for one in all_stats()]


def test_an_identity_stays_the_same_while_the_process_lives():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        identity = identify(child.pid)
        assert identity == identify(child.pid)
        assert identity is not None
        assert identity == ProcessIdentity(child.pid, identity.ticks, boot_id())
        child.communicate(b"\n")
    assert identify(child.pid) is None


def test_the_sockets_that_listen_on_a_port_are_found_with_their_owner(proc):
    head = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    )
    rest = "00000000:00000000 00:00000000 00000000"
    (proc / "self" / "net").mkdir()
    (proc / "self" / "net" / "tcp").write_text(
        f"{head}   0: 0100007F:0841 00000000:0000 0A {rest}  1000        0 4711 1 0 100 0 0 10 0\n"
        f"   1: 0100007F:0841 0100007F:C350 01 {rest}  1001        0 4712 1 0 20 4 30 10 -1\n"
        f"   2: 0100007F:1F90 00000000:0000 0A {rest}  1002        0 4713 1 0 100 0 0 10 0\n"
    )
    assert listening_sockets(2113, proc=proc) == [ListeningSocket(1000, 4711)]
    (proc / "self" / "net" / "tcp6").write_text(
        f"{head}   0: {'0' * 32}:0841 {'0' * 32}:0000 0A {rest}     0        0 99 1 0 100 0 0 10 0\n"
    )
    assert listening_sockets(2113, proc=proc) == [ListeningSocket(1000, 4711), ListeningSocket(0, 99)]
    assert listening_sockets(80, proc=proc) == []
