import os
import subprocess
import sys

import pytest

from agentd.proc import ProcessIdentity, ProcessStat, all_stats, boot_id, identify, read_stat

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
