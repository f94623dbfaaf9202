"""`agentd report`: say from inside the workspace what the task is at."""

import argparse

from agentd import config
from agentd.cli import add_config_options
from agentd.cli.local_client import call, daemon_socket
from agentd.errors import ExitCode

STATES = ("working", "idle", "complete", "failure")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("state", metavar="STATE", choices=STATES, help=", ".join(STATES))
    parser.add_argument(
        "message",
        metavar="MESSAGE",
        nargs="?",
        default="",
        help="one line for people, at most 160 bytes of it",
    )
    parser.add_argument("--uri", default="", help="a link that goes with it, for instance to a pull request")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Raises `UnavailableError` (69) when no daemon listens, `DaemonError` (1) when the task is finished."""
    socket = daemon_socket(config.load(file=args.config, flags=args.flags))
    said = {"state": args.state, "message": args.message, "uri": args.uri}
    answer = call(socket, "POST", "/v1/reports", body=said)
    print(f"{answer['task']['state']}: {answer['message']}")
    return ExitCode.OK
