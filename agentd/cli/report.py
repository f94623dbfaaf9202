"""`agentd report`: report the state of the task from inside the workspace."""

import argparse
from typing import Final

from agentd import config
from agentd.cli.local_client import call, daemon_socket
from agentd.errors import ExitCode

STATES: Final = ("working", "idle", "complete", "failure")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("state", metavar="STATE", choices=STATES, help=", ".join(STATES))
    parser.add_argument(
        "message",
        metavar="MESSAGE",
        nargs="?",
        default="",
        help="one line of text; longer text is truncated to 160 bytes",
    )
    parser.add_argument("--uri", default="", help="a link, for example to a pull request")


def run(args: argparse.Namespace) -> int:
    """Raises `UnavailableError` (69) if no daemon listens, `DaemonError` (1) if the task is finished."""
    socket = daemon_socket(config.load(file=args.config, flags=args.flags))
    report = {"state": args.state, "message": args.message, "uri": args.uri}
    answer = call(socket, "POST", "/v1/reports", body=report)
    print(f"{answer['task']['state']}: {answer['message']}")
    return ExitCode.OK
