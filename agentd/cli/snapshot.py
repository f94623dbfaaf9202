"""`agentd snapshot`: capture and deliver now, print what would be sent, or print a stored conversation."""

import argparse
import sys

from agentd import config
from agentd.cli import add_config_options
from agentd.cli.local_client import NOTHING_TO_SEND, DaemonError, call, daemon_socket, fetch
from agentd.cli.stop import ANSWER_MARGIN_S, print_receipt
from agentd.errors import ExitCode, UnavailableError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--show", action="store_true", help="print the exact bytes that would be sent; send nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the receipt as JSON")
    actions = parser.add_subparsers(dest="action", metavar="[fetch]")
    reading = actions.add_parser(
        "fetch",
        help="print a stored conversation",
        description="Print a stored conversation, from a destination or from the local spool.",
        allow_abbrev=False,
    )
    source = reading.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="a path, file://, https://, s3://, gs:// or az:// URL; - for stdin",
    )
    source.add_argument(
        "--last",
        action="store_true",
        help="the newest conversation in the spool; needs no daemon and no agent",
    )
    form = reading.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    form.add_argument("--raw", action="store_true", help="print the stored bytes unchanged")
    add_config_options(reading, prefix="fetch_")


def run(args: argparse.Namespace) -> int:
    """Returns 0 (delivered or nothing to deliver) or 75 (kept in the spool)."""
    if args.action == "fetch":
        from agentd.cli import stored  # noqa: PLC0415 - needed only by this action

        flags = [*args.flags, *args.fetch_flags]
        return stored.show(args, config.load(file=args.fetch_config or args.config, flags=flags))
    settings = config.load(file=args.config, flags=args.flags)
    return _print_payload(settings) if args.show else _deliver(settings, as_json=args.json)


def _print_payload(settings: config.Config) -> int:
    try:
        payload = fetch(daemon_socket(settings), "GET", "/v1/snapshot")
    except DaemonError as exc:
        raise UnavailableError(NOTHING_TO_SEND) from exc
    except UnavailableError:
        from agentd.cli import takeover  # noqa: PLC0415 - the daemon package, needed only without a daemon

        payload = takeover.payload(settings)
    sys.stdout.buffer.write(payload)
    sys.stdout.buffer.flush()
    return ExitCode.OK


def _deliver(settings: config.Config, *, as_json: bool) -> int:
    timeout_s = settings.shutdown.budget_s + ANSWER_MARGIN_S
    try:
        receipt = call(daemon_socket(settings), "POST", "/v1/snapshot", timeout_s=timeout_s)
    except UnavailableError:
        from agentd.cli import takeover  # noqa: PLC0415 - the daemon package, needed only without a daemon

        receipt = takeover.deliver(settings)
    return print_receipt(receipt, as_json=as_json)
