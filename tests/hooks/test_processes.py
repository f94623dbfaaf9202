"""The end of processes that a hook detached: without its environment, in another session, without a parent."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakeclock import FakeClock

from agentd.clock import Clock
from agentd.hooks import processes
from agentd.hooks.processes import RunMarks, end_run, living
from agentd.hooks.run import HookPolicy, HookRun
from agentd.proc import read_stat


def has_group() -> bool:
    group = RunMarks("probe")._group
    return group is not None and os.access(group.parent / "cgroup.procs", os.W_OK)


@pytest.fixture(params=["mark", "group"])
def _found_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave only one way to find a process that has no environment and its own session."""
    if request.param == "mark":
        monkeypatch.setattr(processes, "_own_group", lambda: None)
    elif not has_group():
        pytest.skip("needs a cgroup v2 that this user may write")
    else:
        monkeypatch.setattr(processes, "_soft_limit", lambda _pid: b"")


@pytest.fixture
def strangers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that are not of the run: a child of ours, and one that another run left."""
    other = RunMarks(uuid.uuid4().hex)
    started = [
        subprocess.Popen(["sleep", "600"]),
        subprocess.Popen(["sleep", "600"], env={}, start_new_session=True, preexec_fn=other.apply),  # noqa: PLW1509 - takes no lock
    ]
    yield started
    for process in started:
        assert process.poll() is None, "a process of another run was ended"
        process.kill()
        process.wait()


def alive(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.state != "Z"


async def pids_in(path: Path, count: int) -> list[int]:
    async with asyncio.timeout(20):
        while not path.exists() or len(path.read_text().split()) < count:
            await asyncio.sleep(0.005)
    return [int(pid) for pid in path.read_text().split()]


def hook(tmp_path: Path, end: str) -> tuple[Path, Path]:
    """A hook that detaches two processes (the second one's parent ends at once) and then does `end`."""
    pids = tmp_path / "pids"
    sleep = f"echo $$ >> {pids}; exec sleep 600"
    path = tmp_path / "hook"
    path.write_text(
        f"#!/bin/sh\nenv -i setsid /bin/sh -c '{sleep}' >/dev/null 2>&1 &\n"
        f"(env -i setsid /bin/sh -c '(/bin/sh -c \"{sleep.replace('$$', chr(92) + '$$')}\" &) ; exit' >/dev/null 2>&1 &)\n"
        f'while [ "$(wc -l < {pids})" != 2 ]; do sleep 0.01; done 2>/dev/null\n{end}\n'
    )
    path.chmod(0o755)
    return path, pids


def run_of(path: Path, run_id: str, *, clock: Clock | None = None) -> HookRun:
    policy = HookPolicy(path.parent, path.parent, {}, timeout_s=30.0, grace_s=0.5, stop_grace_s=0.5)
    env = {"PATH": "/usr/bin:/bin", "AGENTD_RUN_ID": run_id}
    return HookRun(path, policy=policy, env=env, clock=clock or Clock())


@pytest.mark.usefixtures("_found_by", "strangers")
@pytest.mark.parametrize("how", ["it fails", "it times out", "agentd stops", "agentd stops at once"])
async def test_a_detached_process_is_ended_with_the_run(
    tmp_path: Path, how: str, fake_clock: FakeClock
) -> None:
    path, file = hook(tmp_path, "exit 1" if how == "it fails" else "exec sleep 600")
    clock = fake_clock.as_clock() if how == "it times out" else Clock()
    running = asyncio.create_task(run_of(path, uuid.uuid4().hex, clock=clock).execute())
    pids = await pids_in(file, 2)
    if how.startswith("agentd stops"):
        running.cancel()
        if how == "agentd stops at once":
            await asyncio.sleep(0)
            running.cancel()
    if how == "it times out":
        await fake_clock.advance(29.9)
        assert not running.done()
        while not running.done():
            await fake_clock.advance(0.2)
            await asyncio.sleep(0.005)
    with contextlib.suppress(asyncio.CancelledError):
        assert not (await running).succeeded
    async with asyncio.timeout(20):
        while any(map(alive, pids)):
            await asyncio.sleep(0.005)


@pytest.mark.usefixtures("_found_by", "strangers")
async def test_a_detached_process_of_a_killed_agentd_is_ended_without_a_recorded_pid(tmp_path: Path) -> None:
    path, file = hook(tmp_path, "exec sleep 600")
    run_id = uuid.uuid4().hex
    # As if agentd had died after the start: nothing of the run is left but its id.
    hook_process = subprocess.Popen([path], env={"PATH": "/usr/bin:/bin"}, preexec_fn=RunMarks(run_id).apply)  # noqa: PLW1509 - takes no lock
    pids = await pids_in(file, 2)
    assert set(living(run_id, None)) >= {*pids, hook_process.pid}
    assert await end_run(run_id, None, clock=Clock(), grace_s=0.5)
    hook_process.wait()
    assert not any(map(alive, pids))
    group = RunMarks(run_id)._group
    assert group is None or not group.exists()


@pytest.mark.usefixtures("_found_by", "strangers")
async def test_a_detached_process_of_a_hook_that_succeeds_keeps_running_also_after_later_runs(
    tmp_path: Path,
) -> None:
    path, file = hook(tmp_path, "exit 0")
    assert (await run_of(path, uuid.uuid4().hex).execute()).succeeded
    pids = await pids_in(file, 2)
    try:
        path.write_text("#!/bin/sh\nexit 1\n")
        assert (await run_of(path, uuid.uuid4().hex).execute()).exit_code == 1
        assert all(map(alive, pids))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


async def test_a_run_leaves_no_control_group(tmp_path: Path) -> None:
    path = tmp_path / "hook"
    for code in (0, 1):
        path.write_text(f"#!/bin/sh\nexit {code}\n")
        path.chmod(0o755)
        run_id = uuid.uuid4().hex
        await run_of(path, run_id).execute()
        group = RunMarks(run_id)._group
        assert group is None or not group.exists()


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "group"),
    [
        ("0::/\n", "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup"),
        ("1:cpu:/x\n0::/a/b.service\n", "9 1 0:1 / / rw - ext4 /dev/x rw\n41 31 0:38 / /c rw shared:1 - cgroup2 c rw\n", "/c/a/b.service"),
        ("0::/pod/one\n", "41 31 0:38 /pod /c rw - cgroup2 c rw\n", "/c/one"),
        ("0::/other\n", "41 31 0:38 /pod /c rw - cgroup2 c rw\n", None),
        ("0::/../other\n", "41 31 0:38 / /c rw - cgroup2 c rw\n", None),
        ("1:cpu:/x\n", "41 31 0:38 / /c rw - cgroup cgroup rw,cpu\n", None),
        ("0::/\n", "", None),
    ],
)  # fmt: skip
def test_the_control_group_of_agentd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, mountinfo: str, group: str | None
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(cgroup)
    (tmp_path / "self" / "mountinfo").write_text(mountinfo)
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert processes._own_group() == (group and Path(group))


def test_a_limit_that_cannot_be_set_is_no_obstacle() -> None:
    code = "import resource; resource.setrlimit(10, (5, 5)); from agentd.hooks.processes import RunMarks; RunMarks('x').apply()"
    subprocess.run([sys.executable, "-c", code], check=True)
