"""`agentd install`: write the systemd units, the environment file and the hooks directory.

It checks every file before it writes the first one.
"""

import argparse
import pwd
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

from agentd.cli import installation
from agentd.cli.installation import Piece, Places
from agentd.durable import replace_file
from agentd.errors import AgentdError, ExitCode

_SYSTEMD_RUNS: Final = Path("/run/systemd/system")
"""Exists if systemd is the init process (sd_booted(3))."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_place_options(parser)
    parser.add_argument(
        "--force", action="store_true", help="replace changed files; keep each old one as FILE.old"
    )
    parser.add_argument(
        "--run-as",
        metavar="USER",
        default="",
        help="run agentd and its hooks as this user, without the sandbox (system service only)",
    )
    parser.add_argument(
        "--print",
        dest="shown",
        metavar="FILE",
        nargs="?",
        const="unit",
        help="write nothing; print a file: unit (default), env, token-path, token-service, workspace-user",
    )


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Add --user and --root, which `install` and `uninstall` share."""
    parser.add_argument(
        "--user", action="store_true", help="use your user systemd instead of the system systemd"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="use DIR as the root directory, for image builds",
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises `AgentdError` (1) if a file was changed by hand and --force is absent."""
    _check(args)
    places = Places.choose(user=args.user, root=args.root)
    program = installation.program(sys.argv[0])
    pieces = installation.pieces(places, program=program, run_as=args.run_as)
    if args.shown:
        texts = {piece.name: piece.text for piece in pieces}
        if args.shown not in texts:
            raise AgentdError(f"--print {args.shown}: no such file", hint=f"use one of {', '.join(texts)}")
        print(texts[args.shown], end="")
        return ExitCode.OK
    if not args.user and not args.run_as and (path := installation.hidden_path(program)):
        raise AgentdError(
            f"the service cannot access {path}: its sandbox hides home directories and /tmp",
            hint="install agentd below /usr/local or /opt, or use --run-as USER or --user",
        )
    with installation.file_errors("read"):
        found = {piece.path: piece.found() for piece in pieces}
    changed = [piece.path for piece in pieces if found[piece.path] == "changed" and not piece.editable]
    if changed and not args.force:
        raise AgentdError(
            f"{', '.join(map(str, changed))}: changed since agentd wrote it; nothing was written",
            hint="move your change to a drop-in (systemctl edit agentd), or use --force (keeps FILE.old)",
        )
    with installation.file_errors("write"):
        _make_directory(places.on_disk(places.hooks))
    for piece in pieces:
        if found[piece.path] == "same":
            print(f"unchanged  {piece.path}")
        elif found[piece.path] == "changed" and not args.force:
            print(f"kept       {piece.path}: it contains your settings (--force writes a new one)")
        else:
            print(f"written    {piece.path}" + _put(piece, keep_old=found[piece.path] == "changed"))
    reload_systemd(places)
    _print_next_steps(places)
    return ExitCode.OK


def systemctl(places: Places, *arguments: str) -> str:
    """Run systemctl, unless systemd does not run or `places` is not its root. Returns its error output."""
    if places.root != Path("/") or not _SYSTEMD_RUNS.is_dir():
        return ""
    scope = ["--user"] if places.user else []
    done = subprocess.run(["systemctl", *scope, *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607 - fixed arguments; the directory of systemctl differs
    return done.stderr.strip() if done.returncode else ""


def reload_systemd(places: Places) -> None:
    if error := systemctl(places, "daemon-reload"):
        print(f"agentd: systemctl daemon-reload: {error}", file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    if not args.root.is_dir():
        raise AgentdError(f"--root {args.root}: no such directory")
    args.root = args.root.absolute()
    if not args.run_as:
        return
    if args.user:
        raise AgentdError(
            "--run-as: not possible with --user, which runs agentd as the user of the service",
            hint="use only one of the two",
        )
    # systemd reads the file as root, so accept only the names that useradd accepts.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}\$?", args.run_as):
        raise AgentdError(f"--run-as {args.run_as}: not a user name")
    if args.root == Path("/"):
        try:
            pwd.getpwnam(args.run_as)
        except KeyError as exc:
            raise AgentdError(f"--run-as {args.run_as}: no such user", hint="create it with useradd") from exc


def _put(piece: Piece, *, keep_old: bool) -> str:
    """Replace the file atomically. Returns a remark about the old file for the output, or ""."""
    remark = ""
    with installation.file_errors("write", piece.path):
        _make_directory(piece.path.parent)
        if keep_old:
            old = piece.path.with_name(piece.path.name + ".old")
            _write(old, piece.path.read_bytes(), mode=stat.S_IMODE(piece.path.stat().st_mode))
            remark = f" (the old file is now {old})"
        _write(piece.path, piece.text.encode(), mode=piece.mode)
    return remark


def _write(path: Path, data: bytes, *, mode: int) -> None:
    replace_file(path, data, mode=mode)
    path.chmod(mode)  # the umask may have removed bits


def _make_directory(path: Path) -> None:
    """Create `path` and its missing parents with mode 0755, whatever the umask. Change no existing directory."""
    for directory in reversed([path, *path.parents]):
        if not directory.exists():
            directory.mkdir(mode=0o755)
            directory.chmod(0o755)


def _print_next_steps(places: Places) -> None:
    systemctl = "systemctl --user" if places.user else "systemctl"
    sudo = "" if places.user else "sudo "
    print(
        f"\nNext: 1. set CODER_AGENT_URL in {places.settings}/agentd.env"
        f"\n      2. write the agent's session token to {places.settings}/token:"
        f'\n         printf %s "$CODER_AGENT_TOKEN" | {sudo}install -m 600 /dev/stdin {places.settings}/token'
        f"\n      3. {systemctl} enable --now agentd"
        f"\n      Put executable hooks for claims into {places.hooks}."
    )
