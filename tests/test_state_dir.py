import contextlib
import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agentd.errors import ExitCode, StateError
from agentd.state_dir import LOCK_NAME, StateDir, holder_pid
from agentd.worker_thread import WorkerThread

HOLD = """
import pathlib, subprocess, sys
from agentd.state_dir import StateDir
state = StateDir.open(pathlib.Path(sys.argv[1]))
hook = subprocess.Popen(["sleep", "60"], close_fds=False) if len(sys.argv) > 2 else None
print(hook.pid if hook else "held", flush=True)
sys.stdin.read()
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for mount and chown")


@contextlib.contextmanager
def another_agentd(path: Path, *more: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A process that locks `path`, and the line it printed."""
    command = [sys.executable, "-c", HOLD, str(path), *more]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "agentd-test", str(path)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {made.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def refusal(path: Path) -> str:
    with pytest.raises(StateError) as caught:
        StateDir.open(path)
    assert caught.value.exit_code == ExitCode.STATE
    assert str(path) in caught.value.message
    assert caught.value.hint
    return str(caught.value)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_state_directory_is_created_with_its_parents_and_mode_0700(tmp_path):
    path = tmp_path / "a" / "b"
    with StateDir.open(path) as state:
        assert state.path == path
        assert path.stat().st_mode & 0o777 == 0o700
        assert (path / LOCK_NAME).stat().st_mode & 0o777 == 0o600
        assert state.writable()


def test_the_mode_of_a_readable_directory_becomes_0700(tmp_path):
    tmp_path.chmod(0o755)
    with StateDir.open(tmp_path):
        assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_second_agentd_gets_an_error_with_the_pid_of_the_first(tmp_path):
    with another_agentd(tmp_path) as (process, _):
        before = open_files()
        message = refusal(tmp_path)
        assert f"is in use by another agentd (pid {process.pid})" in message
        assert holder_pid(tmp_path) == process.pid
        assert open_files() == before, "the error leaves no file open"


def test_a_second_lock_in_the_same_process_is_an_error(tmp_path):
    with StateDir.open(tmp_path):
        assert f"pid {os.getpid()}" in refusal(tmp_path)
    StateDir.open(tmp_path).close()


def test_sigkill_releases_the_lock(tmp_path):
    with another_agentd(tmp_path) as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert holder_pid(tmp_path) is None
        with StateDir.open(tmp_path):
            assert holder_pid(tmp_path) == os.getpid()


def test_a_hook_that_outlives_its_agentd_does_not_keep_the_lock(tmp_path):
    with another_agentd(tmp_path, "with a hook") as (process, hook_pid):
        process.kill()
        process.wait()
        try:
            os.kill(int(hook_pid), 0)
            StateDir.open(tmp_path).close()
        finally:
            os.kill(int(hook_pid), signal.SIGKILL)


def test_a_lock_of_a_moment_does_not_fail_a_start(tmp_path, monkeypatch):
    StateDir.open(tmp_path).close()
    reader = os.open(tmp_path / LOCK_NAME, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_SH)
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        fcntl.flock(reader, fcntl.LOCK_UN)

    monkeypatch.setattr("agentd.state_dir.time.sleep", pause)
    StateDir.open(tmp_path).close()
    assert len(pauses) == 1
    os.close(reader)


def test_of_concurrent_starts_exactly_one_gets_the_lock(tmp_path):
    won: list[StateDir] = []
    refused: list[StateError] = []

    def start() -> None:
        try:
            won.append(StateDir.open(tmp_path))
        except StateError as exc:
            refused.append(exc)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    won[0].close()


@pytest.mark.parametrize(("content", "pid"), [("", 0), ("²\n", 0), ("-1", 0), ("x" * 100, 0), ("42\n", 42)])
def test_a_lock_without_a_valid_pid_is_a_lock(tmp_path, content, pid):
    state = StateDir.open(tmp_path)
    (tmp_path / LOCK_NAME).write_text(content)
    assert holder_pid(tmp_path) == pid
    assert f"(pid {pid or 'unknown'})" in refusal(tmp_path)
    state.close()
    state.close()


def test_an_absent_directory_is_not_locked(tmp_path):
    assert holder_pid(tmp_path / "none") is None
    assert holder_pid(tmp_path) is None


def test_a_file_in_place_of_the_directory_is_an_error(tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert "is not a directory" in refusal(file)
    assert "a part of the path is a file" in refusal(file / "state")
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    assert "is not a directory" in refusal(dangling)


def test_a_symbolic_link_to_a_directory_is_followed(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with StateDir.open(link):
        assert holder_pid(tmp_path) == os.getpid()


def test_a_lock_that_is_a_symbolic_link_is_set_aside_and_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / LOCK_NAME).symlink_to(victim)
    with StateDir.open(state):
        assert holder_pid(state) == os.getpid()
        assert (state / f"{LOCK_NAME}.corrupt").is_symlink()
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("plant", [Path.mkdir, os.mkfifo])
def test_a_lock_that_is_not_a_file_is_set_aside(tmp_path, plant):
    plant(tmp_path / LOCK_NAME)
    with StateDir.open(tmp_path):
        assert f"pid {os.getpid()}" in refusal(tmp_path)


@pytest.mark.parametrize("change", ["removed", "replaced", "FIFO"])
def test_without_its_lock_file_a_running_agentd_still_refuses_a_second_one(tmp_path, change):
    lock = tmp_path / LOCK_NAME
    with StateDir.open(tmp_path) as first:
        lock.unlink()
        if change == "replaced":
            lock.write_text("4711")
        elif change == "FIFO":
            os.mkfifo(lock)
        assert "is in use by another agentd" in refusal(tmp_path)
        assert holder_pid(tmp_path) is not None
        assert first.writable()
        assert f"pid {os.getpid()}" in refusal(tmp_path), "the check has restored the file"
    StateDir.open(tmp_path).close()


def test_on_a_file_system_that_locks_no_directory_the_lock_file_decides(tmp_path, monkeypatch):
    flock = fcntl.flock

    def files_only(fd: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EBADF, "as on NFS")
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", files_only)
    with StateDir.open(tmp_path) as first:
        assert f"pid {os.getpid()}" in refusal(tmp_path)
        assert holder_pid(tmp_path) == os.getpid()
        (tmp_path / LOCK_NAME).unlink()
        second = StateDir.open(tmp_path)
        assert not first.writable(), "the first one notices that it is not alone"
        second.close()
        assert first.writable()


def test_a_lock_file_that_is_replaced_between_open_and_lock_is_opened_again(tmp_path, monkeypatch):
    flock, lock = fcntl.flock, tmp_path / LOCK_NAME

    def removing(fd: int, how: int) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode) and lock.exists():
            monkeypatch.setattr(fcntl, "flock", flock)
            lock.unlink()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", removing)
    with StateDir.open(tmp_path):
        assert holder_pid(tmp_path) == os.getpid()


def test_a_directory_that_is_removed_and_made_again_is_not_ours(tmp_path):
    path = tmp_path / "state"
    with StateDir.open(path) as first:
        assert first.writable()
        path.rename(tmp_path / "old")
        with StateDir.open(path) as second:
            assert second.writable()
            with capture_logs() as lines:
                assert [first.writable(), first.writable()] == [False, False]
            assert [line["event"] for line in lines] == ["state.lost"], "logged once"


@needs_root
def test_a_directory_of_another_user_is_an_error(tmp_path):
    os.chown(tmp_path, 12345, -1)
    assert "belongs to uid 12345, agentd runs as uid 0" in refusal(tmp_path)


@needs_root
def test_a_directory_that_cannot_be_created_is_an_error(tmp_path):
    tmp_path.chmod(0o755)
    code = (
        "import os, pathlib, sys; from agentd.state_dir import StateDir\n"
        "os.setgid(12345); os.setuid(12345)\n"
        "StateDir.open(pathlib.Path(sys.argv[1]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "state")], capture_output=True, text=True, check=False
    )
    assert "state: Permission denied; give agentd's user write access" in ended.stderr


@needs_root
def test_a_read_only_disk_is_an_error_and_a_later_remount_is_detected(tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=64k,mode=0700"):
        with StateDir.open(disk) as state:
            assert state.writable()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert not state.writable()
        assert "mount it writable" in refusal(disk)


@needs_root
def test_a_daemon_starts_on_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=64k,mode=0700"):
        StateDir.open(disk).close()
        (disk / LOCK_NAME).write_text("")
        with pytest.raises(OSError, match="No space left"):
            (disk / "filler").write_bytes(bytes(1 << 20))
        with StateDir.open(disk) as state:
            assert state.writable()
            assert holder_pid(disk) == 0, "no space for the pid, but the lock is held"
            assert "(pid unknown)" in refusal(disk)


@needs_root
def test_a_disk_without_space_for_the_lock_is_an_error(tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "nr_inodes=1,mode=0700"):
        assert "free some space, or set AGENTD_STATE_DIR" in refusal(disk)


def test_a_removed_directory_is_not_writable(tmp_path):
    path = tmp_path / "state"
    with StateDir.open(path) as state:
        (path / LOCK_NAME).unlink()
        path.rmdir()
        assert not state.writable()


def failing(number: int):
    def call(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_an_error(tmp_path, monkeypatch, number):
    before = open_files()
    monkeypatch.setattr(fcntl, "flock", failing(number))
    assert "the file system does not support locks" in refusal(tmp_path)
    assert open_files() == before


def test_every_other_failure_has_a_hint(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    assert refusal(tmp_path).endswith(
        "Input/output error; set AGENTD_STATE_DIR to a directory that agentd may write"
    )


def test_a_mode_that_cannot_be_changed_is_an_error(tmp_path, monkeypatch):
    tmp_path.chmod(0o755)
    monkeypatch.setattr(Path, "chmod", failing(errno.EPERM))
    assert "Operation not permitted" in refusal(tmp_path)


async def test_the_check_of_a_hung_disk_is_false_within_its_time_limit(tmp_path, monkeypatch):
    release, disk = threading.Event(), WorkerThread("disk")
    with StateDir.open(tmp_path / "state") as state:
        assert await state.is_writable(disk)
        monkeypatch.setattr(state, "writable", lambda: release.wait(30))
        assert not await state.is_writable(disk, 0.05)
        assert not await state.is_writable(disk, 0.05), "the check that hangs is the one that is waited for"
        release.set()
        assert await state.is_writable(disk, 5)
