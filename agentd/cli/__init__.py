"""The command line: one module per command a person types, imported only when it is typed."""

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from agentd import __version__
from agentd.errors import AgentdError, ExitCode

# Name, what `agentd --help` says. The module is agentd.cli.<name> and has configure(parser) and run(args) -> int.
COMMANDS = {
    "run": "the daemon: hold the claim stream, watch the agent, keep the conversation",
    "stop": "shut the running daemon down and show what became of the conversation",
    "status": "what the daemon knows",
    "snapshot": "capture the conversation and deliver it now",
    "claims": "the ledger of claims and their hooks",
    "config": "the effective configuration and where each value comes from",
    "install": "systemd unit, environment file and hooks directory",
    "uninstall": "take away what install wrote",
    "simulate": "a stand-in coderd or AgentAPI for local debugging",
    "demo": "the whole main job on this machine, told as it happens",
}


class Parser(argparse.ArgumentParser):
    """argparse, with sysexits' code for a command line that cannot be understood."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}\n")


def main(argv: Sequence[str]) -> int:
    """Run one command. Returns its exit code; errors for the operator go to stderr as one line."""
    parser = Parser(
        prog="agentd",
        description="Agent-side sidecar of a Coder workspace.",
        epilog="Exit codes: 0 done, 1 failed, 64 usage, 69 nothing to talk to, 73 state directory unusable or held, "
        "75 a snapshot is kept undelivered, 78 bad configuration.",
    )
    parser.add_argument("--version", action="version", version=f"agentd {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name in argv:
            importlib.import_module(f"agentd.cli.{name}").configure(command)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return ExitCode.USAGE
    gc.enable()
    try:
        return int(importlib.import_module(f"agentd.cli.{args.command}").run(args))
    except AgentdError as exc:
        print(f"agentd: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `agentd claims | head`: the reader has seen enough. Python would complain again while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """The options every command that reads the configuration takes."""
    parser.add_argument(
        "--config",
        metavar="F",
        type=Path,
        help="configuration file (default: $AGENTD_CONFIG, else /etc/agentd/agentd.toml)",
    )
    parser.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        dest="flags",
        help="set one key, stronger than environment and file",
    )
