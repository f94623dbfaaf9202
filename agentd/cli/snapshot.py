"""`agentd snapshot`: capture and deliver now, show what would be sent, or read back what was stored."""

import argparse
import sys

from agentd import config
from agentd.cli import add_config_options, receipt
from agentd.cli.local_client import DaemonError, call, daemon_socket, fetch
from agentd.cli.stop import ANSWER_MARGIN_S, NOTHING
from agentd.errors import ExitCode, UnavailableError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--show", action="store_true", help="print the exact bytes that would be sent; send nothing"
    )
    parser.add_argument("--json", action="store_true", help="the receipt as JSON")
    add_config_options(parser)
    actions = parser.add_subparsers(dest="action", metavar="fetch")
    reading = actions.add_parser(
        "fetch",
        help="print a stored conversation",
        description="Print a stored conversation, from where a destination has put it or from the spool on this disk.",
        allow_abbrev=False,
    )
    source = reading.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "url", nargs="?", metavar="URL", help="a path, file://, https://, s3://, gs:// or az://; - for stdin"
    )
    source.add_argument(
        "--last", action="store_true", help="the newest in the spool; needs neither daemon nor agent"
    )
    form = reading.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="the conversation as JSON"
    )
    form.add_argument("--raw", action="store_true", help="the stored bytes, exactly")
    add_config_options(reading, prefix="fetch_")


def run(args: argparse.Namespace) -> int:
    """0 delivered or nothing to deliver; 75 kept in the spool; 69 nothing reachable and nothing spooled."""
    if args.action == "fetch":
        from agentd.cli import stored  # noqa: PLC0415 - a capture needs none of it

        flags = [*args.flags, *args.fetch_flags]
        return stored.show(args, config.load(file=args.fetch_config or args.config, flags=flags))
    settings = config.load(file=args.config, flags=args.flags)
    return _show(settings) if args.show else _deliver(settings, as_json=args.json)


def _show(settings: config.Config) -> int:
    payload: bytes | None
    try:
        payload = fetch(daemon_socket(settings), "GET", "/v1/snapshot")
    except DaemonError:
        payload = None
    except UnavailableError:
        from agentd.cli import takeover  # noqa: PLC0415 - the daemon's rooms, needed only when there is no daemon

        payload = takeover.payload(settings)
    if payload is None:
        print(NOTHING, file=sys.stderr)
        return ExitCode.UNAVAILABLE
    sys.stdout.buffer.write(payload)
    sys.stdout.buffer.flush()
    return ExitCode.OK


def _deliver(settings: config.Config, *, as_json: bool) -> int:
    timeout_s = settings.shutdown.budget_s + ANSWER_MARGIN_S
    try:
        answer = call(daemon_socket(settings), "POST", "/v1/snapshot", timeout_s=timeout_s)
    except UnavailableError:
        from agentd.cli import takeover  # noqa: PLC0415 - the daemon's rooms, needed only when there is no daemon

        answer = takeover.deliver(settings)
    if answer is None:
        print(NOTHING, file=sys.stderr)
        return ExitCode.UNAVAILABLE
    return receipt.show(answer, as_json=as_json)
