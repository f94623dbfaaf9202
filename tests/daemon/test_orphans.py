import os
import subprocess
import sys
from pathlib import Path

from agentd.clock import Clock
from agentd.daemon.orphans import Reaper
from agentd.proc import all_stats


def zombie() -> int:
    """A child of ours that has ended and was not waited for."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_a_zombie_is_taken_in_the_second_round_that_sees_it() -> None:
    reaper = Reaper(Clock())
    pid = zombie()
    assert pid not in reaper.reap()
    assert Path(f"/proc/{pid}").exists()
    assert pid in reaper.reap()
    assert not Path(f"/proc/{pid}").exists()


def test_a_living_child_is_left_alone() -> None:
    reaper = Reaper(Clock())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid not in [*reaper.reap(), *reaper.reap()]
        child.communicate(b"\n")
        assert child.returncode == 0


def test_a_zombie_that_asyncio_has_waited_for_is_not_an_error() -> None:
    reaper = Reaper(Clock())
    pid = zombie()
    reaper.reap()
    os.waitpid(pid, 0)
    assert reaper.reap() == []


def test_a_process_whose_name_holds_parentheses_is_understood(tmp_path: Path) -> None:
    odd = tmp_path / "42"
    odd.mkdir()
    (odd / "stat").write_text(f"42 (a) Z 9 b)) S {os.getpid()} " + "1 " * 20)
    (tmp_path / "43").mkdir()
    (tmp_path / "43" / "stat").write_text("torn")
    assert [(stat.pid, stat.state, stat.parent) for stat in all_stats(proc=tmp_path)] == [
        (42, "S", os.getpid())
    ]
