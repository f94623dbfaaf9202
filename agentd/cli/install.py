"""`agentd install`: systemd unit, environment file and hooks directory. Writes nothing before it knows it may write all."""

import argparse
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from agentd.cli import installation
from agentd.cli.installation import Piece, Places
from agentd.errors import AgentdError, ExitCode

BOOTED = Path("/run/systemd/system")
"""Exists where systemd is the init (sd_booted(3))."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_place_options(parser)
    parser.add_argument(
        "--force", action="store_true", help="replace files that were changed, keeping each as FILE.old"
    )
    parser.add_argument(
        "--run-as",
        metavar="USER",
        default="",
        help="run agentd and its hooks as this user, unconfined (system service only; see workspace-user.conf)",
    )
    parser.add_argument(
        "--print",
        dest="shown",
        metavar="FILE",
        nargs="?",
        const="unit",
        help="write nothing, show a file: unit (default), env, token-path, token-service, workspace-user",
    )


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Shared with `uninstall`."""
    parser.add_argument("--user", action="store_true", help="for your own systemd instead of the system's")
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="work below DIR, for image builds"
    )


def run(args: argparse.Namespace) -> int:
    """0 installed, also when it was before. Raises `AgentdError` (1) when a changed file is in the way."""
    _check(args)
    places = Places.choose(user=args.user, root=args.root)
    program = installation.program(sys.argv[0])
    pieces = installation.pieces(places, program=program, run_as=args.run_as)
    if args.shown:
        return _show(pieces, args.shown)
    if not args.user and not args.run_as and (path := installation.unseen(program)):
        raise AgentdError(
            f"the service could not see {path}: it runs without home directories and with a /tmp of its own",
            hint="install agentd below /usr/local or /opt, or say --run-as USER, or --user",
        )
    found = {piece.path: piece.found() for piece in pieces}
    changed = [piece.path for piece in pieces if found[piece.path] == "changed" and not piece.yours]
    if changed and not args.force:
        raise AgentdError(
            f"{', '.join(map(str, changed))}: changed since agentd wrote it; nothing was done",
            hint="move your change into a drop-in (systemctl edit agentd), or say --force, which keeps it as .old",
        )
    _make_directory(places.on_disk(places.hooks))
    for piece in pieces:
        if found[piece.path] == "same":
            print(f"unchanged  {piece.path}")
        elif found[piece.path] == "changed" and not args.force:
            print(f"kept       {piece.path}: it has your settings in it (--force writes a fresh one)")
        else:
            print(f"written    {piece.path}" + _put(piece, keep_old=found[piece.path] == "changed"))
    reload_systemd(places)
    _say_what_is_next(places)
    return ExitCode.OK


def systemctl(places: Places, *words: str) -> str:
    """Run systemctl where systemd runs and these are its files; returns what it complained about."""
    if places.root != Path("/") or not BOOTED.is_dir():
        return ""
    scope = ["--user"] if places.user else []
    done = subprocess.run(["systemctl", *scope, *words], capture_output=True, text=True, check=False)  # noqa: S603, S607 - our own words; systemctl is where PATH says
    return done.stderr.strip() if done.returncode else ""


def reload_systemd(places: Places) -> None:
    if complaint := systemctl(places, "daemon-reload"):
        print(f"agentd: systemctl daemon-reload: {complaint}", file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    if not args.root.is_dir():
        raise AgentdError(f"--root {args.root}: no such directory")
    args.root = args.root.absolute()
    if not args.run_as:
        return
    if args.user:
        raise AgentdError(
            "--run-as: a user's service runs as that user", hint="leave out one of --user and --run-as"
        )
    # The name goes into a file that systemd reads as root; these are the names useradd makes.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}\$?", args.run_as):
        raise AgentdError(f"--run-as {args.run_as}: not a user name")
    if args.root == Path("/"):
        try:
            pwd.getpwnam(args.run_as)
        except KeyError as exc:
            raise AgentdError(f"--run-as {args.run_as}: no such user", hint="useradd it first") from exc


def _show(pieces: list[Piece], name: str) -> int:
    for piece in pieces:
        if piece.name == name:
            print(piece.text, end="")
            return ExitCode.OK
    raise AgentdError(
        f"--print {name}: no such file", hint=f"one of {', '.join(piece.name for piece in pieces)}"
    )


def _put(piece: Piece, *, keep_old: bool) -> str:
    """Replace the file in one step: a reader sees the old one or the new one. Returns what else there is to say."""
    _make_directory(piece.path.parent)
    said = ""
    try:
        if keep_old:
            old = piece.path.with_name(piece.path.name + ".old")
            shutil.copy2(piece.path, old)
            said = f" (yours is now {old})"
        fd, temporary = tempfile.mkstemp(dir=piece.path.parent, prefix=f".{piece.path.name}.")
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(piece.text)
            os.fchmod(fd, piece.mode)
            file.flush()
            os.fsync(fd)
        Path(temporary).replace(piece.path)
    except OSError as exc:
        raise _refused(piece.path, exc) from exc
    return said


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise _refused(path, exc) from exc


def _refused(path: Path, exc: OSError) -> AgentdError:
    return AgentdError(f"{path} cannot be written: {exc.strerror}", hint="run as root, or with --user")


def _say_what_is_next(places: Places) -> None:
    systemctl = "systemctl --user" if places.user else "systemctl"
    own = "" if places.user else "sudo "
    print(
        f"\nNext: 1. set CODER_AGENT_URL in {places.settings}/agentd.env"
        f"\n      2. put the agent's session token into {places.settings}/token:"
        f'\n         printf %s "$CODER_AGENT_TOKEN" | {own}install -m 600 /dev/stdin {places.settings}/token'
        f"\n      3. {systemctl} enable --now agentd"
        f"\n      Scripts for claims go into {places.hooks}, executable."
    )
