"""Build the image with buildah on a prepared Debian, and run it like a container engine.

The module creates namespaces and mounts itself: crun and runc need cgroups, which a build machine may not have, and
`buildah run` supports neither entry points nor read-only roots. The properties that matter are the same: the image's
command is process 1 of a PID namespace, the root is read-only, the uid is the configured one and has no capability.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import debian
import pytest

CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
RUN = """
set -e
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount --bind "$STATE" "$ROOT/var/lib/agentd"
mount -o remount,bind,ro "$ROOT"
exec chroot --userspec="$OWNER" --groups= "$ROOT" /usr/bin/env -i "$@"
"""


class Store:
    """An image store of buildah. `chroot` isolation and the vfs driver need no kernel features."""

    def __init__(self, where: Path) -> None:
        self._options = [f"--root={where / 'storage'}", f"--runroot={where / 'run'}", "--storage-driver=vfs"]

    def buildah(self, *words: str | Path) -> str:
        done = debian.run(
            "buildah", *self._options, *words, env={**os.environ, "BUILDAH_ISOLATION": "chroot"}
        )
        assert done.returncode == 0, f"buildah {words[0]}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        return image in self.buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines()

    def inspect(self, image: str) -> dict[str, Any]:
        config = json.loads(self.buildah("inspect", "--type=image", image))["Docker"]["config"]
        assert isinstance(config, dict)
        return config

    @contextlib.contextmanager
    def unpacked(self, image: str) -> Iterator[Path]:
        """The writable root directory of the image, deleted afterwards."""
        container = self.buildah("from", "--pull-never", image)
        try:
            yield Path(self.buildah("mount", container))
        finally:
            self.buildah("rm", container)


def base_name() -> str:
    """The name of the base image in the Dockerfile."""
    found = re.search(r"^ARG BASE=(\S+)$", (debian.REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert found
    return found[1]


def make_base(store: Store, root: Path) -> None:
    """Store `root` under the name of the base image, with this machine's CA bundle and pip settings."""
    container = store.buildah("from", "scratch")
    store.buildah("add", "--quiet", container, root, "/")
    made = Path(store.buildah("mount", container))
    # The path of the interpreter in the official image.
    for name in ("python3", "python"):
        (made / "usr/local/bin" / name).symlink_to("/usr/bin/python3")
    if CA_BUNDLE.exists():
        shutil.copy(CA_BUNDLE, made / "etc/ssl/certs/ca-certificates.crt")
    index = os.environ.get("PIP_INDEX_URL")
    lines = ["[global]", f"cert = {CA_BUNDLE}", *([f"index-url = {index}"] if index else [])]
    (made / "etc/pip.conf").write_text("\n".join(lines) + "\n")
    store.buildah("commit", "--quiet", "--rm", container, base_name())


class Container:
    """The image's entry point as process 1. Use it as a context manager; `prefix` is an init in front of it."""

    def __init__(
        self,
        root: Path,
        config: Mapping[str, Any],
        *,
        state: Path,
        environ: Mapping[str, str],
        owner: str = "",
        prefix: tuple[str, ...] = (),
    ) -> None:
        self._root = root
        self._owner = owner or str(config["User"])
        self._environ = [*config["Env"], *(f"{name}={value}" for name, value in environ.items())]
        self._command = [*self._environ, *prefix, *config["Entrypoint"], *config["Cmd"]]
        self._state = state
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        script = ["sh", "-c", RUN, "sh", *self._command]
        with (self._state.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", *script],
                env={**os.environ, "ROOT": str(self._root), "STATE": str(self._state), "OWNER": self._owner},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            # Kill process 1 itself: unshare's --kill-child has no effect after process 1 changes its uid.
            os.kill(self.first_process(), signal.SIGKILL)
            self._process.wait()

    def log(self) -> str:
        return (self._state.parent / "log").read_text(errors="replace")

    def first_process(self) -> int:
        """The pid of the container's process 1 in this namespace."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        assert children, self.log()
        return int(children[0])

    def stop(self, timeout_s: float = 10.0) -> tuple[int, float]:
        """Send SIGTERM like `docker stop`. Returns exit code and seconds; fails the test on a timeout."""
        assert self._process is not None
        begun = time.monotonic()
        os.kill(self.first_process(), signal.SIGTERM)
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout_s} s: {self.log()}")
        return code, time.monotonic() - begun

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, like `docker exec`."""
        uid, _, gid = self._owner.partition(":")
        return debian.run(
            "nsenter", f"--target={self.first_process()}", "--mount", "--pid", f"--root=/proc/{self.first_process()}/root",
            "setpriv", f"--reuid={uid}", f"--regid={gid or '0'}", "--clear-groups",
            "env", "-i", *self._environ, *command,
        )  # fmt: skip
