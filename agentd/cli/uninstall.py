"""`agentd uninstall`: takes away what `agentd install` wrote. State, settings you changed and hooks stay unless told."""

import argparse
import contextlib
import shutil

from agentd.cli import installation
from agentd.cli.install import add_place_options, reload_systemd, systemctl
from agentd.cli.installation import Piece, Places
from agentd.errors import AgentdError, ExitCode

# Any name: which drop-in was written says the file itself, not the name of the user in it.
_ANY_USER = "coder"


def configure(parser: argparse.ArgumentParser) -> None:
    add_place_options(parser)
    parser.add_argument(
        "--purge",
        action="store_true",
        help="also remove the state directory (ledger, undelivered conversation), the settings and the token",
    )


def run(args: argparse.Namespace) -> int:
    """0 also when there was nothing to remove. Raises `AgentdError` (1) when something cannot be removed."""
    places = Places.choose(user=args.user, root=args.root.absolute())
    # Not enabled, not running or not there at all is no fault to somebody who wants it gone.
    systemctl(places, "disable", "--now", "agentd.service")
    if not places.user:
        systemctl(places, "stop", "agentd-token.path")
    try:
        for piece in installation.pieces(places, program="", run_as=_ANY_USER):
            _remove(piece, purge=args.purge)
        if args.purge:
            _purge(places)
        _remove_empty(places)
    except OSError as exc:
        raise AgentdError(
            f"{exc.filename} cannot be removed: {exc.strerror}", hint="run as root, or with --user"
        ) from exc
    reload_systemd(places)
    return ExitCode.OK


def _remove(piece: Piece, *, purge: bool) -> None:
    match piece.found():
        case "absent":
            return
        case "changed" if piece.yours and not purge:
            print(f"kept     {piece.path}: it has your settings in it (--purge removes it)")
        case "changed" if not piece.yours:
            # Its service must not outlive it, and its change must not be lost.
            old = piece.path.with_name(piece.path.name + ".old")
            piece.path.replace(old)
            print(f"removed  {piece.path}: you had changed it, so it is now {old}")
        case _:
            piece.path.unlink()
            print(f"removed  {piece.path}")


def _purge(places: Places) -> None:
    token = places.on_disk(places.settings / "token")
    if token.exists():
        token.unlink()
        print(f"removed  {token}")
    state = places.on_disk(places.state)
    # DynamicUser keeps the directory in private/ and puts a link where it would be.
    for path in (state.parent / "private" / state.name, state):
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
            print(f"removed  {path}")


def _remove_empty(places: Places) -> None:
    """Directories we made, unless something of yours is in them."""
    settings = places.on_disk(places.settings)
    drop_ins = places.on_disk(places.units / "agentd.service.d")
    for path in (places.on_disk(places.hooks), settings / "hooks", settings, drop_ins):
        with contextlib.suppress(OSError):
            path.rmdir()
