"""The single file, on a root without Python, C library, shell and /tmp."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import debian
import pytest

from agentd import __version__
from agentd.simulator.coderd import SimulatedCoderd

pytestmark = pytest.mark.single_file
MB = 1_000_000


@pytest.fixture(scope="session")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler")
    output = tmp_path_factory.mktemp("single") / "agentd"
    made = debian.run(sys.executable, debian.REPOSITORY / "packaging" / "single_file.py", output)
    assert made.returncode == 0, made.stderr
    return output


@pytest.fixture
def empty(single_file: Path, tmp_path: Path) -> Path:
    """A root directory that contains only the file."""
    debian.require()
    root = tmp_path / "empty"
    root.mkdir()
    shutil.copy(single_file, root / "agentd")
    return root


def start(
    root: Path, *words: str, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return debian.run(shutil.which("chroot") or "chroot", root, "/agentd", *words, env=dict(environ or {}))


def test_it_runs_in_an_empty_root(empty: Path) -> None:
    for _ in range(2):
        done = start(empty, "--version")
        assert (done.stdout, done.stderr, done.returncode) == (f"agentd {__version__}\n", "", 0)
    # One directory, created once, with mode 0700.
    made = [path for path in empty.iterdir() if path.name != "agentd"]
    assert len(made) == 1
    assert made[0].stat().st_mode & 0o777 == 0o700


def test_it_unpacks_into_the_users_cache(empty: Path) -> None:
    (empty / "home/.cache").mkdir(parents=True)
    assert start(empty, "--version", environ={"HOME": "/home"}).returncode == 0
    assert [path.name for path in (empty / "home/.cache").iterdir()] == ["agentd"]
    assert len(list((empty / "home/.cache/agentd").iterdir())) == 1


def test_a_deleted_file_is_unpacked_again(empty: Path) -> None:
    (empty / "tmp").mkdir()
    start(empty, "--version")
    (unpacked,) = (empty / "tmp/agentd-0").iterdir()
    (unpacked / "start.pyc").unlink()
    assert start(empty, "--version").stdout == f"agentd {__version__}\n"


def test_a_directory_with_a_wrong_mode_is_not_used(empty: Path) -> None:
    trap = empty / "tmp" / "agentd-0"
    trap.mkdir(parents=True)
    trap.chmod(0o777)
    assert start(empty, "--version").returncode == 0
    assert list(trap.iterdir()) == []


def test_a_truncated_file_is_reported(empty: Path) -> None:
    with (empty / "agentd").open("r+b") as file:
        file.truncate(5 * MB)
    done = start(empty, "--version")
    assert done.returncode == 1
    assert "damaged" in done.stderr


def test_the_daemon_keeps_its_pid_and_hooks_get_a_clean_environment(
    single_file: Path, tmp_path: Path
) -> None:
    """systemd's notifications and a process 1 need the pid; hooks need the libraries of the machine."""

    async def scenario() -> None:
        hook = tmp_path / "hooks" / "on-claim.d" / "10-env"
        hook.parent.mkdir(parents=True)
        hook.write_text(f"#!/bin/sh\nenv > {tmp_path}/seen.new && mv {tmp_path}/seen.new {tmp_path}/seen\n")
        hook.chmod(0o755)
        async with SimulatedCoderd(ping_s=1.0) as coderd:
            workspace = coderd.add_prebuild()
            environ = {
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "AGENTD_STATE_DIR": str(tmp_path / "state"),
                "CODER_AGENT_URL": coderd.url,
                "CODER_AGENT_TOKEN": workspace.token,
                "AGENTD_AGENTAPI_URL": "http://127.0.0.1:9",
                "AGENTD_CLAIMS_HOOKS_DIR": str(tmp_path / "hooks"),
            }
            process = await asyncio.create_subprocess_exec(single_file, "run", env=environ)
            try:
                async with asyncio.timeout(60):
                    await coderd.until(lambda: coderd.open_streams(workspace) > 0)
                    coderd.claim_start(workspace)
                    await coderd.claim_finish(workspace)
                    while not (tmp_path / "seen").exists():
                        await asyncio.sleep(0.05)
                    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
                    assert children.split() == []
                    assert Path(f"/proc/{process.pid}/comm").read_text() == "agentd\n"
                    process.send_signal(signal.SIGTERM)
                    assert await process.wait() == 0
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        seen = (tmp_path / "seen").read_text()
        assert "AGENTD_HOOK=10-env" in seen
        assert not re.search(r"^(LD_|PYTHON|_PYI)", seen, re.MULTILINE)

    asyncio.run(scenario())


def test_install_writes_the_path_of_the_single_file_into_the_unit(single_file: Path) -> None:
    shown = debian.run(single_file, "install", "--print")
    assert f"ExecStart={single_file} run\n" in shown.stdout


def test_it_is_smaller_than_fifty_megabytes(single_file: Path) -> None:
    assert single_file.stat().st_size < 50 * MB
