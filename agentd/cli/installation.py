"""The files that `agentd install` writes, their paths, and the detection of files changed by hand.

Every file ends with a comment line with the SHA-256 of the lines above it. If the hash matches, this or an
older agentd wrote the file, and it may be replaced or removed. Otherwise it was changed by hand. The hash is in
the file itself, so that no separate record can be lost or contradict it.
"""

import contextlib
import hashlib
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, Literal

from agentd.errors import AgentdError

_MARK: Final = "# Written by `agentd install`; of the lines above, sha256 "
_PROGRAM_IN_UNITS: Final = "/usr/bin/env agentd"
_USER_IN_DROP_IN: Final = "User=coder\n"
_HIDDEN_FROM_UNIT: Final = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108 - ProtectHome, PrivateTmp

Found = Literal["absent", "same", "ours", "changed"]


@contextlib.contextmanager
def file_errors(action: str, path: Path | None = None) -> Iterator[None]:
    """Raise an `OSError` of the body as an `AgentdError` that names `path`, or the file of the error."""
    try:
        yield
    except OSError as exc:
        raise AgentdError(
            f"cannot {action} {path or exc.filename}: {exc.strerror}", hint="run as root, or use --user"
        ) from exc


@dataclass(frozen=True, slots=True)
class Piece:
    """One file. `name` is its name for `--print`; `editable` marks the file that the operator edits."""

    name: str
    path: Path
    text: str
    mode: int = 0o644
    editable: bool = False

    def found(self) -> Found:
        """Compare the file at `path` with `text`; `ours` means written by another agentd version."""
        try:
            existing = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "absent"
        if existing == self.text:
            return "same"
        return "ours" if _has_valid_mark(existing) else "changed"


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of an installation. `root` is added to the paths on disk, not to paths in the files."""

    user: bool
    root: Path
    units: Path
    settings: Path
    state: Path

    @classmethod
    def choose(cls, *, user: bool, root: Path) -> "Places":
        if not user:
            return cls(user, root, Path("/etc/systemd/system"), Path("/etc/agentd"), Path("/var/lib/agentd"))
        home = Path(os.environ.get("HOME") or Path.home())
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        state = Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state")
        return cls(user, root, config / "systemd" / "user", config / "agentd", state / "agentd")

    def on_disk(self, path: Path) -> Path:
        return self.root / path.relative_to("/")

    @property
    def hooks(self) -> Path:
        return self.settings / "hooks" / "on-claim.d"


def pieces(places: Places, *, program: str, run_as: str = "") -> list[Piece]:
    """Every file of an installation. `program` is the command for `ExecStart=`."""

    def piece(name: str, path: Path, source: str, mode: int = 0o644, *, editable: bool = False) -> Piece:
        text = _source(source).replace(_PROGRAM_IN_UNITS, program)
        if places.user:
            text = text.replace("/etc/agentd", str(places.settings))
        if source == "workspace-user.conf":
            text = text.replace(_USER_IN_DROP_IN, f"User={run_as}\n")
        return Piece(name, places.on_disk(path), _marked(text), mode, editable)

    units = places.units
    # Mode 0600, because some operators put a token into it.
    env = piece("env", places.settings / "agentd.env", "agentd.env", 0o600, editable=True)
    if places.user:
        return [piece("unit", units / "agentd.service", "agentd.user.service"), env]
    found = [
        piece("unit", units / "agentd.service", "agentd.service"),
        piece("token-path", units / "agentd-token.path", "agentd-token.path"),
        piece("token-service", units / "agentd-token.service", "agentd-token.service"),
        env,
    ]
    if run_as:
        drop_in = units / "agentd.service.d" / "50-workspace-user.conf"
        found.append(piece("workspace-user", drop_in, "workspace-user.conf"))
    return found


def program(argv0: str) -> str:
    """The absolute command that started this process, quoted for systemd."""
    called = Path(os.path.abspath(argv0))  # noqa: PTH100 - keeps a link such as /usr/local/bin/agentd
    if getattr(sys, "frozen", False):
        return _quoted(sys.executable)
    if called.name != "__main__.py" and os.access(called, os.X_OK):
        return _quoted(str(called))
    return f"{_quoted(sys.executable)} -m agentd"


def hidden_path(command: str) -> str:
    """The path of the program if the sandbox of the unit hides it, else ""."""
    path = shlex.split(command)[0]
    return path if path.startswith(_HIDDEN_FROM_UNIT) else ""


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != path or " " in path else path


def _source(name: str) -> str:
    # A wheel has the files inside the package, a checkout has them beside it.
    packaged = resources.files("agentd") / "systemd" / name
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / "systemd" / name).read_text(encoding="utf-8")


def _marked(text: str) -> str:
    return f"{text}\n{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n"


def _has_valid_mark(content: str) -> bool:
    text, mark, digest = content.rpartition("\n" + _MARK)
    return bool(mark) and digest == hashlib.sha256(text.encode()).hexdigest() + "\n"
