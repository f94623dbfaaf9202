"""`agentd` and `python -m agentd`."""

import gc
import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    # A start makes some hundred thousand objects that live for ever: collecting while importing costs 10 ms of 130.
    gc.disable()
    from agentd.cli import main as run_command_line  # noqa: PLC0415 - after the collector is off, which is the point

    code = run_command_line(sys.argv[1:])
    # Python's last act is to collect everything once more: 4 ms of a command, for memory the kernel takes back anyway.
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(main())
