"""What `agentd install` puts where, and how a file that somebody has changed since is told from one as we left it.

Every file ends with a comment line holding the SHA-256 of the lines above it. A file that agrees with its own last line
is as some agentd wrote it, this version or an older one, and may be replaced or removed; any other is somebody's work.
The mark travels with the file, so there is no record to lose or to contradict it.
"""

import hashlib
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from agentd.errors import AgentdError

_MARK = "# Written by `agentd install`; of the lines above, sha256 "
_PROGRAM_IN_UNITS = "/usr/bin/env agentd"
_USER_IN_DROP_IN = "User=coder\n"
_UNSEEN_BY_THE_UNIT = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108 - ProtectHome, PrivateTmp

Found = Literal["absent", "same", "ours", "changed"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One file. `name` is what `--print` calls it; `yours` marks the file that is there to be edited."""

    name: str
    path: Path
    text: str
    mode: int = 0o644
    yours: bool = False

    def found(self) -> Found:
        """What lies at `path` now: nothing, exactly this, an unchanged file of ours, or somebody's work."""
        try:
            there = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "absent"
        except OSError as exc:
            raise AgentdError(
                f"{self.path} cannot be read: {exc.strerror}", hint="run as root, or with --user"
            ) from exc
        if there == self.text:
            return "same"
        return "ours" if _untouched(there) else "changed"


@dataclass(frozen=True, slots=True)
class Places:
    """Where things go. `root` is prefixed to what is written, not to what the files say (for image builds)."""

    user: bool
    root: Path
    units: Path
    settings: Path
    state: Path

    @classmethod
    def choose(cls, *, user: bool, root: Path, environ: Mapping[str, str] = os.environ) -> "Places":
        if not user:
            return cls(user, root, Path("/etc/systemd/system"), Path("/etc/agentd"), Path("/var/lib/agentd"))
        home = Path(environ.get("HOME") or Path.home())
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        state = Path(environ.get("XDG_STATE_HOME") or home / ".local" / "state")
        return cls(user, root, config / "systemd" / "user", config / "agentd", state / "agentd")

    def on_disk(self, path: Path) -> Path:
        return self.root / path.relative_to("/")

    @property
    def hooks(self) -> Path:
        return self.settings / "hooks" / "on-claim.d"


def pieces(places: Places, *, program: str, run_as: str = "") -> list[Piece]:
    """Every file of an installation. `program` is the command that starts agentd, as it stands in `ExecStart=`."""

    def piece(name: str, path: Path, source: str, mode: int = 0o644, *, yours: bool = False) -> Piece:
        text = _source(source).replace(_PROGRAM_IN_UNITS, program)
        if places.user:
            text = text.replace("/etc/agentd", str(places.settings))
        if source == "workspace-user.conf":
            text = text.replace(_USER_IN_DROP_IN, f"User={run_as}\n")
        return Piece(name, places.on_disk(path), _marked(text), mode, yours)

    units = places.units
    # 0600: people put a token here although there is a better place for it.
    env = piece("env", places.settings / "agentd.env", "agentd.env", 0o600, yours=True)
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
    """The command that started us, absolute and quoted for systemd: the script, the single file, or the interpreter."""
    called = Path(os.path.abspath(argv0))  # noqa: PTH100 - a link such as /usr/local/bin/agentd stays a link
    if getattr(sys, "frozen", False):
        return _quoted(sys.executable)
    if called.name != "__main__.py" and os.access(called, os.X_OK):
        return _quoted(str(called))
    return f"{_quoted(sys.executable)} -m agentd"


def unseen(command: str) -> str:
    """The program's path when the hardened unit could not see it there, else an empty string."""
    path = shlex.split(command)[0]
    return path if path.startswith(_UNSEEN_BY_THE_UNIT) else ""


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != path or " " in path else path


def _source(name: str) -> str:
    # A wheel carries the files inside the package; in a checkout they stand beside it.
    packaged = resources.files("agentd") / "systemd" / name
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / "systemd" / name).read_text(encoding="utf-8")


def _marked(text: str) -> str:
    return f"{text}\n{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n"


def _untouched(there: str) -> bool:
    text, mark, digest = there.rpartition("\n" + _MARK)
    return bool(mark) and digest == hashlib.sha256(text.encode()).hexdigest() + "\n"
