"""A small Debian to boot and to build images on, created once with debootstrap and kept in the user's cache.

Every function calls `pytest.skip` with a reason if the machine lacks a requirement.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SUITE = "bookworm"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
PACKAGES = ("systemd", "systemd-sysv", "dbus", "sudo", "python3", "python3-venv", "ca-certificates", "procps")


def cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = home / "agentd-tests"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def require(*tools: str) -> None:
    """Skip the test unless this process is root and `tools` are installed."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(*command: str | Path, timeout_s: float = 600, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, **more)  # type: ignore[call-overload, no-any-return]  # `more` is passed through


def base_root() -> Path:
    """The root directory of an unchanged Debian with systemd and Python. Do not write into it: use `copy_of`."""
    require("debootstrap")
    # The name contains a hash of the package list, so that a changed list creates a new root.
    name = f"{SUITE}-{hashlib.sha256(' '.join(PACKAGES).encode()).hexdigest()[:12]}"
    root = cache() / name
    with _lock(cache() / "lock"):
        if root.is_dir():
            return root
        unfinished = cache() / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        made = run(
            "debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, unfinished, MIRROR,
        )  # fmt: skip
        if made.returncode != 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            pytest.skip(f"debootstrap failed: {(made.stdout + made.stderr)[-300:]}")
        shutil.rmtree(unfinished / "var/cache/apt/archives", ignore_errors=True)
        unfinished.rename(root)
    return root


@contextlib.contextmanager
def copy_of(root: Path, where: Path) -> Iterator[Path]:
    """A writable copy of `root`, deleted afterwards: an overlay mount, or a real copy if that fails."""
    upper, work, merged = where / "upper", where / "work", where / "root"
    for directory in (upper, work, merged):
        directory.mkdir(parents=True)
    mounted = run(
        "mount",
        "-t",
        "overlay",
        "agentd-test",
        merged,
        "-o",
        f"lowerdir={root},upperdir={upper},workdir={work}",
    )
    if mounted.returncode != 0:
        run("cp", "-a", f"{root}/.", merged)
    try:
        yield merged
    finally:
        if mounted.returncode == 0:
            run("umount", "--lazy", merged)
        shutil.rmtree(where, ignore_errors=True)


def wheelhouse(root: Path, where: Path) -> Path:
    """Build agentd's wheel and download those of its dependencies, for the Python in `root`."""
    where.mkdir(parents=True)
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = run("chroot", root, "python3", "-c", code).stdout.strip()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = run(*pip, "wheel", "--no-deps", "--wheel-dir", where, REPOSITORY)
    assert built.returncode == 0, built.stderr
    wheel = next(where.glob("agentd-*.whl"))
    kinds = [f"manylinux_{glibc}_{platform.machine()}" for glibc in ("2_28", "2_17")]
    kinds.append(f"manylinux2014_{platform.machine()}")
    got = run(
        *pip, "download", "--only-binary=:all:", "--python-version", version, "--dest", where,
        *(word for kind in kinds for word in ("--platform", kind)), wheel,
    )  # fmt: skip
    if got.returncode != 0:
        pytest.skip(f"cannot download the dependencies: {got.stderr[-300:]}")
    return where


def install_agentd(root: Path, wheels: Path) -> None:
    """Install agentd with pip into /opt/agentd inside `root`, and link the command to the PATH."""
    shutil.copytree(wheels, root / "wheels")
    steps = (
        "python3 -m venv /opt/agentd"
        " && /opt/agentd/bin/pip install --quiet --no-index --find-links /wheels agentd"
        " && ln -s /opt/agentd/bin/agentd /usr/local/bin/agentd"
    )
    done = run("chroot", root, "sh", "-c", steps)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(root / "wheels")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
