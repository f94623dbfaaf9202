"""`agentd claims`: read or change the claim ledger, through the daemon or, if none runs, on disk."""

import argparse
import json
import sys
from typing import Any
from urllib.parse import quote

from agentd import config
from agentd.cli import add_config_options
from agentd.cli.local_client import DaemonError, call, daemon_socket
from agentd.errors import ExitCode, UnavailableError, UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "show", "retry", "forget"),
        default="list",
        help="list (default): print all claims; show: print one claim with the output of its hooks; "
        "retry: run its remaining hooks again; forget: delete it from the ledger",
    )
    parser.add_argument("id", nargs="?", help="claim id, or its first characters")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 for an unknown id."""
    if (args.id is None) != (args.action == "list"):
        raise UsageError(
            f"agentd claims {args.action} {'takes no claim id' if args.id else 'needs a claim id'}",
            hint="see `agentd claims --help`",
        )
    settings = config.load(file=args.config, flags=args.flags)
    if args.action in ("list", "show"):
        claims = _claims(settings)
        chosen = claims if args.id is None else [_find(claims, args.id)]
        if None in chosen:
            return _report_unknown(args.id)
        if args.json:
            print(json.dumps(chosen if args.id is None else chosen[0], ensure_ascii=False, indent=2))
        else:
            print("\n".join(_describe(one, with_output=args.id is not None) for one in chosen) or "no claims")
        return ExitCode.OK
    return _change(settings, args)


def _claims(settings: config.Config) -> list[Any]:
    try:
        return list(call(daemon_socket(settings), "GET", "/v1/claims")["claims"])
    except UnavailableError:
        from agentd.cli import takeover  # noqa: PLC0415 - needed only without a daemon

        return takeover.claims(settings)


def _change(settings: config.Config, args: argparse.Namespace) -> int:
    try:
        claim = _find(_claims(settings), args.id)
        if claim is None:
            return _report_unknown(args.id)
        method, route = ("POST", "/retry") if args.action == "retry" else ("DELETE", "")
        try:
            answer = call(daemon_socket(settings), method, f"/v1/claims/{quote(claim['id'])}{route}")
        except UnavailableError:
            from agentd.cli import takeover  # noqa: PLC0415 - needed only without a daemon

            answer = takeover.change_claim(settings, args.action, claim["id"])
    except DaemonError as exc:
        print(f"agentd: {exc}", file=sys.stderr)
        return ExitCode.FAILED
    print(json.dumps(answer, ensure_ascii=False, indent=2) if args.json else answer["message"])
    return ExitCode.OK


def _find(claims: list[Any], prefix: str) -> Any:  # noqa: ANN401 - a claim as JSON, or None
    found = [claim for claim in claims if claim["id"].startswith(prefix)]
    return found[0] if len(found) == 1 else None


def _report_unknown(prefix: str) -> int:
    print(
        f"agentd: no claim, or more than one, has an id that starts with {prefix!r}; see `agentd claims`",
        file=sys.stderr,
    )
    return ExitCode.FAILED


def _describe(claim: dict[str, Any], *, with_output: bool) -> str:
    """One line for the claim and one for each hook; `with_output` adds the end of each hook's output."""
    owner = claim["owner_id"] or "an unknown owner"
    lines = [f"{claim['id']}  {claim['state']}  {claim['reason']} by {owner}, {claim['admitted_at']}"]
    if claim["why"]:
        lines.append(f"    {claim['why']}")
    for hook in claim["hooks"]:
        attempts = f"attempt {hook['attempt']}" if hook["attempt"] else "not started"
        why = f": {hook['why']}" if hook["why"] else ""
        lines.append(f"    {hook['name']}  {hook['state']}, {attempts}{why}")
        if with_output and hook.get("tail"):
            lines += [f"        | {line}" for line in hook["tail"].splitlines()]
    if not claim["hooks"]:
        lines.append("    no hooks")
    return "\n".join(lines)
