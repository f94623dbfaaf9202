"""`agentd claims`: the ledger, read from the daemon, or from disk when none runs."""

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
    parser.add_argument("action", nargs="?", choices=("list", "show", "retry", "forget"), default="list")
    parser.add_argument("id", nargs="?", help="claim id, or the beginning of one")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """0, or 1 for an unknown id."""
    if (args.id is None) != (args.action == "list"):
        raise UsageError(
            f"agentd claims {args.action}: {'takes no id' if args.id else 'which claim?'}",
            hint="see `agentd claims --help`",
        )
    settings = config.load(file=args.config, flags=args.flags)
    if args.action in ("list", "show"):
        claims = _claims(settings)
        chosen = claims if args.id is None else [_find(claims, args.id)]
        if None in chosen:
            return _unknown(args.id)
        if args.json:
            print(json.dumps(chosen if args.id is None else chosen[0], ensure_ascii=False, indent=2))
        else:
            print("\n".join(_paragraph(one, whole=args.id is not None) for one in chosen) or "no claims")
        return ExitCode.OK
    return _change(settings, args)


def _claims(settings: config.Config) -> list[Any]:
    try:
        return list(call(daemon_socket(settings), "GET", "/v1/claims")["claims"])
    except UnavailableError:
        from agentd.cli import takeover  # noqa: PLC0415 - the ledger itself, only when no daemon answers

        return takeover.claims(settings)


def _change(settings: config.Config, args: argparse.Namespace) -> int:
    try:
        claim = _find(_claims(settings), args.id)
        if claim is None:
            return _unknown(args.id)
        method, route = ("POST", "/retry") if args.action == "retry" else ("DELETE", "")
        try:
            answer = call(daemon_socket(settings), method, f"/v1/claims/{quote(claim['id'])}{route}")
        except UnavailableError:
            from agentd.cli import takeover  # noqa: PLC0415 - the ledger itself, only when no daemon answers

            answer = takeover.change_claim(settings, args.action, claim["id"])
    except DaemonError as exc:
        print(f"agentd: {exc}", file=sys.stderr)
        return ExitCode.FAILED
    print(json.dumps(answer, ensure_ascii=False, indent=2) if args.json else answer["message"])
    return ExitCode.OK


def _find(claims: list[Any], prefix: str) -> Any:  # noqa: ANN401 - a claim as JSON, or None
    found = [claim for claim in claims if claim["id"].startswith(prefix)]
    return found[0] if len(found) == 1 else None


def _unknown(prefix: str) -> int:
    print(
        f"agentd: no single claim has an id starting with {prefix!r}; `agentd claims` lists them",
        file=sys.stderr,
    )
    return ExitCode.FAILED


def _paragraph(claim: dict[str, Any], *, whole: bool) -> str:
    """A claim, its hooks a line each, and with `whole` what they printed."""
    owner = claim["owner_id"] or "an owner the server did not name"
    lines = [f"{claim['id']}  {claim['state']}  {claim['reason']} by {owner}, {claim['admitted_at']}"]
    if claim["why"]:
        lines.append(f"    {claim['why']}")
    for hook in claim["hooks"]:
        tries = f"attempt {hook['attempt']}" if hook["attempt"] else "not started"
        why = f": {hook['why']}" if hook["why"] else ""
        lines.append(f"    {hook['name']}  {hook['state']}, {tries}{why}")
        if whole and hook.get("tail"):
            lines += [f"        | {line}" for line in hook["tail"].splitlines()]
    if not claim["hooks"]:
        lines.append("    no hooks")
    return "\n".join(lines)
