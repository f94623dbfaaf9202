"""How a delivery receipt reads, and which exit code it means."""

import json
from typing import Any

from agentd.errors import ExitCode


def show(receipt: dict[str, Any], *, as_json: bool) -> int:
    """Print `receipt` and return 0 (delivered, or nothing to deliver) or 75 (kept in the spool)."""
    if as_json:
        print(json.dumps(receipt, ensure_ascii=False, indent=2))
    else:
        print(sentence(receipt))
        for one in receipt["destinations"]:
            print(f"  {one['name']}: {one['outcome']}" + (f" ({one['detail']})" if one.get("detail") else ""))
    return ExitCode.PENDING if receipt["outcome"] == "pending" else ExitCode.OK


def sentence(receipt: dict[str, Any]) -> str:
    """`delivered: 10 messages, 12,345 bytes, sha256 0123456789ab…`."""
    if receipt["outcome"] == "nothing":
        return "nothing to deliver"
    count = receipt["messages"]
    size = (
        f"{count} message{'s' * (count != 1)}, {receipt['bytes']:,} bytes, sha256 {receipt['sha256'][:12]}…"
    )
    kept = "; kept in the spool, the next start delivers it" if receipt["outcome"] == "pending" else ""
    return f"{receipt['outcome']}: {size}{kept}"
