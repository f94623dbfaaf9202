"""The command line: one module per command a person types, imported only when it is typed."""

import argparse
import contextlib
import gc
import importlib
import io
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from agentd import __version__
from agentd.errors import AgentdError, ExitCode

# Name, what `agentd --help` says. The module is agentd.cli.<name> and has configure(parser) and run(args) -> int.
COMMANDS = {
    "run": "the daemon: hold the claim stream, watch the agent, keep the conversation",
    "stop": "shut the running daemon down and show what became of the conversation",
    "status": "what the daemon knows",
    "report": "say what the task is at: working, idle, complete or failure",
    "snapshot": "capture the conversation and deliver it now",
    "claims": "the ledger of claims and their hooks",
    "doctor": "what is wrong with this installation, and what to do about it",
    "drill": "rehearse a shutdown against the real peers without stopping anything",
    "debug": "a bundle to attach to a ticket: settings, states and findings, without secrets",
    "completion": "completion of these commands for bash, zsh or fish",
    "config": "the effective configuration and where each value comes from",
    "install": "systemd unit, environment file and hooks directory",
    "uninstall": "take away what install wrote",
    "simulate": "a stand-in coderd or AgentAPI for local debugging",
    "demo": "the whole main job on this machine, told as it happens",
}


class _Help(argparse.HelpFormatter):
    """argparse makes one for every option it is told of, and asks shutil, 3 ms to import, for the terminal's width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(sys.stdout.fileno()).columns) or 80
    return 80


class Parser(argparse.ArgumentParser):
    """argparse, with sysexits' code for a command line that cannot be understood."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(**{"formatter_class": _Help, **options})

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}\n")


def main(argv: Sequence[str]) -> int:
    """Run one command. Returns its exit code; errors for the operator go to stderr as one line."""
    _print_anything()
    try:
        try:
            code = _run(argv)
        except SystemExit as exc:
            # argparse has said all there is to say: help, version or usage.
            code = exc.code if isinstance(exc.code, int) else ExitCode.FAILED
        # Here and not while Python exits, where a reader that has gone is a complaint and another exit code.
        if sys.stdout is not None:
            sys.stdout.flush()
    except AgentdError as exc:
        _complain(str(exc))
        return exc.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `agentd claims | head`: the reader has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    return code


def _run(argv: Sequence[str]) -> int:
    args = _parser(argv).parse_args(argv)
    if args.command is None:
        _parser(argv).print_help(sys.stderr)
        return ExitCode.USAGE
    # What is imported lives for ever: frozen, the collector does not walk through all of it to find that out.
    gc.freeze()
    gc.enable()
    return int(importlib.import_module(f"agentd.cli.{args.command}").run(args))


def _parser(argv: Sequence[str]) -> Parser:
    # A command in the first place is the only one there is to parse for. Twenty parsers more would be a tenth of what
    # `agentd status --oneline` takes; whoever asks for help or types something else gets them all.
    if argv and argv[0] in COMMANDS:
        return parser_of([argv[0]], offered=[argv[0]])
    return parser_of([word for word in argv if not word.startswith("-")][:1])


def parser_of(configured: Collection[str], *, offered: Collection[str] = COMMANDS) -> Parser:
    """The command line of the `offered` commands, with the options of the `configured` ones.

    The modules of the others stay unimported.
    """
    parser = Parser(
        prog="agentd",
        description="Agent-side sidecar of a Coder workspace.",
        epilog="Exit codes: 0 done, 1 failed, 64 usage, 69 nothing to talk to, 73 state directory unusable or held, "
        "75 a snapshot is kept undelivered, 78 bad configuration.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"agentd {__version__}")
    # With `prog` given, argparse need not format a usage first.
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", prog="agentd")
    for name in offered:
        summary = COMMANDS[name]
        # Abbreviated options would break scripts on the day a second option starts with the same letters.
        command = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        if name in configured:
            importlib.import_module(f"agentd.cli.{name}").configure(command)
    return parser


def _print_anything() -> None:
    """Let no character that a terminal cannot show, or that is none, end a command with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _complain(text: str) -> None:
    # Without stderr there is nobody to tell; the exit code still says it.
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"agentd: {text}", file=sys.stderr)


def add_config_options(parser: argparse.ArgumentParser, *, prefix: str = "") -> None:
    """The options every command that reads the configuration takes.

    With a `prefix` for their names a parser below another one takes them as well, without hiding those before it.
    """
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
        help="set one key, stronger than environment and file",
    )
