"""Hooks as real processes: environment, output, result, and the end of all their processes."""

import asyncio
import os
import signal
import stat
import sys
import uuid
from pathlib import Path

import pytest
from fakeclock import FakeClock

from agentd import log, programs
from agentd.clock import Clock
from agentd.hooks.directory import HookDirectoryError, list_hooks
from agentd.hooks.processes import end_run, living
from agentd.hooks.run import LOGGED_LINES, TAIL_BYTES, HookOutcome, HookPolicy, HookResult, HookRun
from agentd.proc import ProcessIdentity, identify, read_stat
from agentd.programs import untrusted_reason

W = "11111111-1111-4111-8111-111111111111"
# Unique, because the processes of a run are searched on the whole machine, where the tests may run twice at once.
RUN = f"run-{uuid.uuid4()}"


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def hook_run(path: Path, *, run_id: str = RUN, clock: Clock | None = None, **options: float) -> HookRun:
    times = {"timeout_s": 30.0, "grace_s": 5.0, "stop_grace_s": 5.0, **options}
    env = {"PATH": "/usr/bin:/bin", "AGENTD_RUN_ID": run_id}
    policy = HookPolicy(path.parent, path.parent, {}, **times)
    return HookRun(path, policy=policy, env=env, clock=clock or Clock())


async def run(path: Path, **options: float) -> tuple[HookResult, str]:
    one = hook_run(path, **options)
    return await one.execute(), one.tail


async def started(one: HookRun) -> "asyncio.Task[HookResult]":
    """Start a run, and wait until it has its process: a cancellation before that kills the process."""
    has_process = asyncio.Event()

    async def on_spawn(_leader: ProcessIdentity) -> None:
        has_process.set()

    task = asyncio.create_task(one.execute(on_spawn))
    await has_process.wait()
    return task


async def written(path: Path) -> str:
    """Wait until a hook has written `path` to its end (a line)."""
    while not (path.exists() and path.read_text().endswith("\n")):
        await asyncio.sleep(0.005)
    return path.read_text().strip()


async def gone(*pids: int) -> None:
    while any((stat := read_stat(pid)) is not None and stat.state != "Z" for pid in pids):
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("body", "outcome", "code", "why"),
    [
        ("exit 0", HookOutcome.SUCCEEDED, 0, ""),
        ("exit 3", HookOutcome.FAILED, 3, "exit code 3"),
        ("kill -SEGV $$", HookOutcome.FAILED, -11, "killed by SIGSEGV"),
    ],
)
async def test_the_result_of_a_hook(
    tmp_path: Path, body: str, outcome: HookOutcome, code: int, why: str
) -> None:
    ended, _ = await run(script(tmp_path / "hook", body))
    assert (ended.outcome, ended.exit_code, ended.why) == (outcome, code, why)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"#!/no/such/interpreter\n", "No such file or directory"),
        (b"\x00\x01 no program\n", "Exec format error"),
    ],
)
async def test_a_hook_that_cannot_be_started_fails_with_the_reason(
    tmp_path: Path, content: bytes, why: str
) -> None:
    path = tmp_path / "hook"
    path.write_bytes(content)
    path.chmod(0o755)
    ended, _ = await run(path)
    assert (ended.outcome, ended.exit_code) == (HookOutcome.NOT_STARTED, None)
    assert why in ended.why


async def test_a_hook_that_is_open_for_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "hook"
    path.write_bytes(Path("/bin/true").read_bytes())
    path.chmod(0o755)
    with path.open("ab"):
        ended, _ = await run(path)
    assert "Text file busy" in ended.why
    assert (await run(path))[0].succeeded


async def test_a_hook_has_no_input_its_own_session_and_only_its_three_files(tmp_path: Path) -> None:
    leak = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leak, False)
    # Not by the shell, which opens files of its own.
    program = """
import os
print(os.readlink("/proc/self/fd/0"))
print(*[fd for fd in range(256) if os.path.exists(f"/proc/self/fd/{fd}")])
print(os.getpgrp(), os.getsid(0), os.getpid())
"""
    (tmp_path / "program.py").write_text(program)
    body = f"exec {sys.executable} -S {tmp_path}/program.py"
    try:
        _, tail = await run(script(tmp_path / "hook", body))
    finally:
        os.close(leak)
    stdin, fds, ids = tail.splitlines()
    assert stdin == "/dev/null"
    assert fds == "0 1 2"
    group, session, pid = ids.split()
    assert group == session == pid


DAEMON = {
    "PATH": "/bin", "CODER_AGENT_TOKEN": "t", "CODER_AGENT_TOKEN_FILE": "/f", "AGENTD_CODER_TOKEN": "t",
    "CODER_AGENT_URL": "u", "NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "2", "AGENTD_ATTEMPT": "9",
}  # fmt: skip


def test_the_environment_of_a_hook_has_the_reason_and_no_token(tmp_path: Path) -> None:
    policy = HookPolicy(tmp_path, tmp_path, DAEMON)
    env = policy.environment(hook="10-a", reason="stable", workspace_id=W, run_id=RUN)
    assert env == {
        "PATH": "/bin",
        "CODER_AGENT_URL": "u",
        "AGENTD_ATTEMPT": "9",
        "AGENTD_HOOK": "10-a",
        "AGENTD_REASON": "stable",
        "AGENTD_WORKSPACE_ID": W,
        "AGENTD_STATE_DIR": str(tmp_path),
        "AGENTD_RUN_ID": RUN,
    }


def test_the_token_is_passed_if_configured_and_a_missing_workspace_is_empty(tmp_path: Path) -> None:
    policy = HookPolicy(tmp_path, tmp_path, DAEMON, pass_token=True)
    env = policy.environment(hook="a", reason="r", workspace_id=None, run_id=RUN)
    assert env["CODER_AGENT_TOKEN"] == "t"
    assert env["AGENTD_WORKSPACE_ID"] == ""
    assert "NOTIFY_SOCKET" not in env


async def test_the_tail_of_the_output_starts_at_a_character_boundary(tmp_path: Path) -> None:
    body = "i=0; while [ $i -lt 4000 ]; do printf 'ééé'; i=$((i+1)); done; echo end >&2"
    _, tail = await run(script(tmp_path / "hook", body))
    assert tail.endswith("éend\n")
    assert TAIL_BYTES - 4 <= len(tail.encode()) <= TAIL_BYTES
    assert "\ufffd" not in tail


async def test_a_large_output_is_read_in_bounded_memory_and_logged_in_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure(fmt="json")
    one = hook_run(script(tmp_path / "hook", "yes agentd | head -c 50000000; echo; echo last"))
    ended = await one.execute()
    assert ended.succeeded
    assert one.tail.endswith("last\n")
    lines = capsys.readouterr().err.splitlines()
    assert sum('"hook.output"' in line for line in lines) == LOGGED_LINES
    assert sum("hook.output_no_longer_logged" in line for line in lines) == 1


async def test_the_token_is_redacted_in_the_tail(tmp_path: Path) -> None:
    log.register_secret("a-token-to-hide")
    _, tail = await run(script(tmp_path / "hook", "echo token=a-token-to-hide"))
    assert "a-token-to-hide" not in tail


async def ended_by_timeout(path: Path, fake_clock: FakeClock, *, ready: Path) -> HookResult:
    task = asyncio.create_task(hook_run(path, clock=fake_clock.as_clock()).execute())
    await written(ready)
    await fake_clock.advance(29)
    assert not task.done()
    while not task.done():
        await asyncio.sleep(0.005)
        await fake_clock.advance(0.2)
    return task.result()


async def test_a_hook_that_hangs_is_ended_with_its_whole_session(
    tmp_path: Path, fake_clock: FakeClock
) -> None:
    body = f'trap "" TERM HUP; sleep 600 & (setsid sleep 600 & echo $! > {tmp_path}/far); echo $$ $! > {tmp_path}/near; wait; wait'
    ended = await ended_by_timeout(script(tmp_path / "hook", body), fake_clock, ready=tmp_path / "near")
    assert (ended.outcome, ended.why) == ("timed_out", "timed out after 30 s")
    pids = [int(pid) for name in ("near", "far") for pid in (tmp_path / name).read_text().split()]
    await gone(*pids)
    assert living(RUN, None) == []


async def test_a_hook_that_ends_at_sigterm_is_not_killed(tmp_path: Path, fake_clock: FakeClock) -> None:
    body = f'trap "echo cleaned > {tmp_path}/cleaned; exit 0" TERM; echo x > {tmp_path}/ready; while :; do sleep 0.02; done'
    ended = await ended_by_timeout(script(tmp_path / "hook", body), fake_clock, ready=tmp_path / "ready")
    assert ended.outcome == "timed_out"
    assert await written(tmp_path / "cleaned") == "cleaned"


async def test_the_processes_of_a_failed_hook_are_ended(tmp_path: Path) -> None:
    body = f"sleep 600 & echo $! > {tmp_path}/child; exit 1"
    ended, _ = await run(script(tmp_path / "hook", body))
    assert ended.exit_code == 1
    await gone(int((tmp_path / "child").read_text()))


async def test_a_service_that_a_successful_hook_started_keeps_running(tmp_path: Path) -> None:
    body = f"sleep 600 >/dev/null 2>&1 & echo $! > {tmp_path}/child"
    ended, _ = await run(script(tmp_path / "hook", body))
    child = int((tmp_path / "child").read_text())
    try:
        assert ended.succeeded
        assert identify(child) is not None
    finally:
        os.kill(child, signal.SIGKILL)


async def test_a_pipe_that_a_child_keeps_open_delays_the_result_only_briefly(
    tmp_path: Path, fake_clock: FakeClock
) -> None:
    body = f"sleep 600 & echo $! > {tmp_path}/child"
    task = asyncio.create_task(
        hook_run(script(tmp_path / "hook", body), clock=fake_clock.as_clock()).execute()
    )
    child = int(await written(tmp_path / "child"))
    try:
        while not task.done():
            await asyncio.sleep(0.005)
            await fake_clock.advance(0.5)
        assert task.result().succeeded
        assert identify(child) is not None
    finally:
        os.kill(child, signal.SIGKILL)


async def test_a_cancellation_ends_the_hook_and_is_passed_on(tmp_path: Path) -> None:
    body = f"echo started; echo $$ > {tmp_path}/pid; exec sleep 600"
    one = hook_run(script(tmp_path / "hook", body))
    task = await started(one)
    pid = int(await written(tmp_path / "pid"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(pid)
    assert one.tail == "started\n"


async def test_a_second_cancellation_kills_the_hook_at_once(tmp_path: Path) -> None:
    body = f'trap "echo term >> {tmp_path}/term" TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.01; done'
    task = await started(hook_run(script(tmp_path / "hook", body), stop_grace_s=3600.0))
    pid = int(await written(tmp_path / "pid"))
    task.cancel()
    await written(tmp_path / "term")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(pid)


async def test_a_run_is_found_by_its_id_when_no_pid_was_recorded(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        "sleep", "600", env={"AGENTD_RUN_ID": RUN, "PATH": "/bin:/usr/bin"}
    )
    other = await asyncio.create_subprocess_exec(
        "sleep", "600", env={"AGENTD_RUN_ID": f"{RUN}-2", "PATH": "/bin:/usr/bin"}
    )
    try:
        assert living(RUN, None) == [child.pid]
        assert await end_run(RUN, None, clock=Clock(), grace_s=5.0)
        assert await child.wait() == -signal.SIGTERM
        assert other.returncode is None
    finally:
        other.kill()
        await other.wait()


async def test_a_run_without_the_run_id_in_its_environment_is_found_by_its_recorded_leader(
    tmp_path: Path,
) -> None:
    child = await asyncio.create_subprocess_exec("sleep", "600", env={}, start_new_session=True)
    leader = identify(child.pid)
    assert leader is not None
    assert living(RUN, leader) == [child.pid]
    assert await end_run(RUN, leader, clock=Clock(), grace_s=5.0)
    await child.wait()


async def test_a_reused_pid_is_not_signalled() -> None:
    child = await asyncio.create_subprocess_exec("sleep", "600", env={}, start_new_session=True)
    now = identify(child.pid)
    assert now is not None
    try:
        for stranger in (
            ProcessIdentity(now.pid, now.ticks - 1, now.boot),
            ProcessIdentity(now.pid, now.ticks, "another-boot"),
        ):
            assert living(RUN, stranger) == []
            assert await end_run(RUN, stranger, clock=Clock(), grace_s=5.0)
        assert child.returncode is None
    finally:
        child.kill()
        await child.wait()


def test_hooks_are_listed_in_name_order_and_other_files_are_skipped_with_a_reason(tmp_path: Path) -> None:
    for name in ("20-b", "10-a", "9-z", ".hidden", "10-a~", "30-c.bak", "#40#", "50-d.dpkg-old", "odd\nname"):
        script(tmp_path / name, "")
    (tmp_path / "60-plain").write_text("not executable")
    (tmp_path / "70-dir").mkdir()
    (tmp_path / "80-dangling").symlink_to(tmp_path / "nowhere")
    found = list_hooks(tmp_path)
    assert found.names == ("10-a", "20-b", "9-z")
    reasons = dict(found.skipped)
    assert reasons["60-plain"] == "not executable"
    assert reasons["70-dir"] == "not a file"
    assert "No such file" in reasons["80-dangling"]
    assert len(reasons) == 9


def test_a_missing_directory_has_no_hooks_and_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    assert list_hooks(tmp_path / "none").exists is False
    (tmp_path / "file").write_text("")
    with pytest.raises(HookDirectoryError, match="cannot be read"):
        list_hooks(tmp_path / "file")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
def test_a_hooks_directory_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "hooks"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(HookDirectoryError, match="may be written by other users"):
        list_hooks(directory)


def test_a_hook_or_parent_that_others_may_write_is_not_trusted_except_a_sticky_parent(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    hook = script(parent / "hook", "")
    assert untrusted_reason(hook) == ""
    hook.chmod(0o775)
    assert "mode 0775" in untrusted_reason(hook)
    hook.chmod(0o755)
    parent.chmod(0o777)
    assert str(parent) in untrusted_reason(hook)
    parent.chmod(0o1777)
    assert untrusted_reason(hook) == ""


def test_a_link_is_trusted_only_if_its_target_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = script(tmp_path / "elsewhere" / "real", "")
    link = tmp_path / "link"
    link.symlink_to(target)
    assert untrusted_reason(link) == ""
    (tmp_path / "elsewhere").chmod(0o777)
    assert "elsewhere" in untrusted_reason(link)


def test_a_hook_of_another_user_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = script(tmp_path / "hook", "")
    if os.geteuid() == 0:
        os.chown(hook, 65534, 65534)
    else:
        monkeypatch.setattr(programs.os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to uid" in untrusted_reason(hook)
    assert stat.S_ISREG(hook.stat().st_mode)
