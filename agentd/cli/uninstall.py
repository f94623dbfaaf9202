"""`agentd uninstall`: remove the files that `agentd install` wrote.

It keeps hooks and, without --purge, the state and changed settings.
"""

import argparse
import contextlib
import shutil
from typing import Final

from agentd.cli import installation
from agentd.cli.install import add_place_options, reload_systemd, systemctl
from agentd.cli.installation import Piece, Places
from agentd.errors import ExitCode

# Any user name: the drop-in's path and mark do not depend on it.
_ANY_USER: Final = "coder"


def configure(parser: argparse.ArgumentParser) -> None:
    add_place_options(parser)
    parser.add_argument(
        "--purge",
        action="store_true",
        help="also remove the state directory (ledger, undelivered snapshots), the settings and the token",
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0, also without an installation. Raises `AgentdError` (1) if a file cannot be removed."""
    places = Places.choose(user=args.user, root=args.root.absolute())
    # Ignore errors: the unit may be disabled, stopped or absent.
    systemctl(places, "disable", "--now", "agentd.service")
    if not places.user:
        systemctl(places, "stop", "agentd-token.path")
    with installation.file_errors("remove"):
        for piece in installation.pieces(places, program="", run_as=_ANY_USER):
            _remove(piece, purge=args.purge)
        if args.purge:
            _purge(places)
        _remove_empty(places)
    reload_systemd(places)
    return ExitCode.OK


def _remove(piece: Piece, *, purge: bool) -> None:
    match piece.found():
        case "absent":
            return
        case "changed" if piece.editable and not purge:
            print(f"kept     {piece.path}: it contains your settings (--purge removes it)")
        case "changed" if not piece.editable:
            # Rename it, so that the service is gone and the change is not lost.
            old = piece.path.with_name(piece.path.name + ".old")
            piece.path.replace(old)
            print(f"removed  {piece.path}: it was changed, so it is now {old}")
        case _:
            piece.path.unlink()
            print(f"removed  {piece.path}")


def _purge(places: Places) -> None:
    token = places.on_disk(places.settings / "token")
    if token.exists():
        token.unlink()
        print(f"removed  {token}")
    state = places.on_disk(places.state)
    # With DynamicUser systemd keeps the directory in private/ and creates a symbolic link to it.
    for path in (state.parent / "private" / state.name, state):
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
            print(f"removed  {path}")


def _remove_empty(places: Places) -> None:
    """Remove the directories that install created, if they are empty."""
    settings = places.on_disk(places.settings)
    drop_ins = places.on_disk(places.units / "agentd.service.d")
    for path in (places.on_disk(places.hooks), settings / "hooks", settings, drop_ins):
        with contextlib.suppress(OSError):
            path.rmdir()
