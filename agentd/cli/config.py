"""`agentd config show|check`."""

import argparse
import json

from agentd import config
from agentd.cli import add_config_options
from agentd.errors import ExitCode

MASKED_KINDS = ("secret", "headers")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=("show", "check"), default="show", help="show (default), or check only"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Raises `ConfigError` (78) when the configuration is wrong or incomplete."""
    effective = config.load(file=args.config, flags=args.flags)
    if args.action == "check":
        effective.require_coder()
        print("{}" if args.json else "configuration is complete")
        return ExitCode.OK
    rows = [(name, _shown(effective, key), effective.origins[name]) for name, key in config.keys().items()]
    if args.json:
        print(
            json.dumps({name: {"value": value, "origin": origin} for name, value, origin in rows}, indent=2)
        )
        return ExitCode.OK
    width = max(len(name) for name, _, _ in rows)
    for name, value, origin in rows:
        print(f"{name:{width}}  {value if value not in ('', None, []) else '-'}  ({origin})")
    return ExitCode.OK


def _shown(effective: config.Config, key: config.Key) -> object:
    section, field = key.name.split(".")
    value = getattr(getattr(effective, section), field)
    if key.spec.kind in MASKED_KINDS and value:
        return "[hidden]"
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
