"""The command line: one module for each command, imported only when the command is used."""

import argparse
import contextlib
import gc
import importlib
import io
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from agentd import __version__
from agentd.errors import AgentdError, ExitCode

# Command → its line in `agentd --help`. The module agentd.cli.<command> has configure(parser) and
# run(args) -> int.
COMMANDS: Final = {
    "run": "run the daemon: act on claims, observe the agent, store and deliver the conversation",
    "stop": "stop the daemon and print the delivery result",
    "status": "print the state of the daemon",
    "report": "report the state of the task: working, idle, complete or failure",
    "hook": "hand an event of a coding agent's own hook to the daemon, or print how to install it",
    "snapshot": "capture the conversation and deliver it now, or print a stored one",
    "claims": "list claims and their hooks, retry or forget a claim",
    "doctor": "check the installation and print what to correct",
    "drill": "measure a shutdown against the real peers without stopping anything",
    "debug": "write a bundle for a support ticket: settings, states and findings, without secrets",
    "completion": "print a completion script for bash, zsh or fish",
    "config": "print the effective configuration and the origin of each value",
    "install": "install the systemd unit, the environment file and the hooks directory",
    "uninstall": "remove the files that install wrote",
    "simulate": "run a simulated coderd or AgentAPI for local debugging",
    "demo": "run agentd against simulated peers and print each step",
}
_WITHOUT_CONFIG: Final = {"completion", "install", "uninstall", "simulate", "demo"}


class _HelpFormatter(argparse.HelpFormatter):
    """Sets the width itself, because argparse imports shutil (3 ms) to get it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(sys.stdout.fileno()).columns) or 80
    return 80


class Parser(argparse.ArgumentParser):
    """An argument parser that exits with `ExitCode.USAGE` on an invalid command line."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(**{"formatter_class": _HelpFormatter, **options})

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}\n")


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code. An `AgentdError` is printed to stderr as one line."""
    _escape_unprintable()
    try:
        try:
            code = _run(argv)
        except SystemExit as exc:
            # argparse has printed the help, the version or the usage.
            code = exc.code if isinstance(exc.code, int) else ExitCode.FAILED
        # At Python's exit a closed pipe would print a warning and change the exit code.
        if sys.stdout is not None:
            sys.stdout.flush()
    except AgentdError as exc:
        _print_error(str(exc))
        return exc.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of the pipe has exited, as in `agentd claims | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    return code


def _run(argv: Sequence[str]) -> int:
    args = _parser_for(argv).parse_args(argv)
    if args.command is None:
        _parser_for(argv).print_help(sys.stderr)
        return ExitCode.USAGE
    # Imported objects are never freed. Frozen objects are skipped by every garbage collection.
    gc.freeze()
    gc.enable()
    return int(importlib.import_module(f"agentd.cli.{args.command}").run(args))


def _parser_for(argv: Sequence[str]) -> Parser:
    # If the first argument is a command, build only its parser: the others would take a tenth of the time of
    # `agentd status --oneline`.
    if argv and argv[0] in COMMANDS:
        return build_parser([argv[0]], commands=[argv[0]])
    return build_parser([word for word in argv if not word.startswith("-")][:1])


def build_parser(with_options: Collection[str], *, commands: Collection[str] = COMMANDS) -> Parser:
    """A parser for `commands`. Imports only the modules of `with_options`, and adds their options."""
    parser = Parser(
        prog="agentd",
        description="Agent-side sidecar of a Coder workspace.",
        epilog="Exit codes: 0 success, 1 failure, 64 invalid command line, 69 no daemon, or no agent and an empty "
        "spool, 73 state directory unusable or in use, 75 snapshot not delivered, kept in the spool, "
        "78 invalid configuration.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"agentd {__version__}")
    # `prog` saves argparse the formatting of a usage.
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", prog="agentd")
    for name in commands:
        summary = COMMANDS[name]
        # Without abbreviations: a new option with the same first letters would break scripts.
        command = subparsers.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        if name in with_options:
            importlib.import_module(f"agentd.cli.{name}").configure(command)
            if name not in _WITHOUT_CONFIG:
                add_config_options(command)
    return parser


def _escape_unprintable() -> None:
    """Escape characters that the encoding of stdout or stderr does not have, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print_error(text: str) -> None:
    # Python sets sys.stderr to None if the descriptor is closed.
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"agentd: {text}", file=sys.stderr)


def add_config_options(parser: argparse.ArgumentParser, *, prefix: str = "") -> None:
    """Add --config and --set. In a subparser a `prefix` keeps their values apart from those of the parent."""
    parser.add_argument(
        "--config",
        dest=f"{prefix}config",
        metavar="F",
        type=Path,
        help="configuration file (default: $AGENTD_CONFIG, else /etc/agentd/agentd.toml)",
    )
    parser.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        dest=f"{prefix}flags",
        help="set one key; overrides the environment and the file",
    )
