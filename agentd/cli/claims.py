"""`agentd claims`: read or change the claim ledger, through the daemon or, if none runs, on disk."""

import argparse
import json
from typing import Any
from urllib.parse import quote

from agentd import config
from agentd.cli.local_client import call, daemon_socket
from agentd.errors import AgentdError, ExitCode, UnavailableError, UsageError


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


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises `AgentdError` (1) for an unknown id."""
    if (args.id is None) != (args.action == "list"):
        raise UsageError(
            f"agentd claims {args.action} {'takes no claim id' if args.id else 'needs a claim id'}",
            hint="see `agentd claims --help`",
        )
    settings = config.load(file=args.config, flags=args.flags)
    claims = _claims(settings)
    found: Any = claims if args.id is None else _find(claims, args.id)
    if args.action in ("retry", "forget"):
        found = _change(settings, args.action, found["id"])
        text = found["message"]
    elif args.action == "show":
        text = _describe(found, with_output=True)
    else:
        text = "\n".join(_describe(claim, with_output=False) for claim in claims) or "no claims"
    print(json.dumps(found, ensure_ascii=False, indent=2) if args.json else text)
    return ExitCode.OK


def _claims(settings: config.Config) -> list[Any]:
    try:
        return list(call(daemon_socket(settings), "GET", "/v1/claims")["claims"])
    except UnavailableError:
        from agentd.cli import takeover  # noqa: PLC0415 - needed only without a daemon

        return takeover.claims(settings)


def _change(settings: config.Config, action: str, claim_id: str) -> Any:  # noqa: ANN401 - JSON
    method, route = ("POST", "/retry") if action == "retry" else ("DELETE", "")
    try:
        return call(daemon_socket(settings), method, f"/v1/claims/{quote(claim_id)}{route}")
    except UnavailableError:
        from agentd.cli import takeover  # noqa: PLC0415 - needed only without a daemon

        return takeover.change_claim(settings, action, claim_id)


def _find(claims: list[Any], prefix: str) -> Any:  # noqa: ANN401 - a claim as JSON
    found = [claim for claim in claims if claim["id"].startswith(prefix)]
    if len(found) != 1:
        raise AgentdError(
            f"no claim, or more than one, has an id that starts with {prefix!r}", hint="see `agentd claims`"
        )
    return found[0]


def _describe(claim: dict[str, Any], *, with_output: bool) -> str:
    """One line for the claim and one for each hook; `with_output` adds the end of each hook's output."""
    owner = claim["owner_id"] or "an unknown owner"
    lines = [f"{claim['id']}  {claim['state']}  {claim['reason']} by {owner}, {claim['admitted_at']}"]
    if claim.get("inferred"):
        lines.append("    inferred: coderd sent no event; the Coder agent's manifest named a new owner")
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
