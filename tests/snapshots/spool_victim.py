"""Replaces a snapshot and is killed at each system call: before, after, or in the middle of it.

    spool_victim.py DIRECTORY

For each point it forks a child that dies there by SIGKILL, in its own copy of the spool, and prints one JSON line:
{"directory": "…", "died": true, "code": 9}. For each moment, the last child is not killed.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from agentd.conversation.fit import fit
from agentd.conversation.message import Message
from agentd.snapshots.receipts import DestinationOutcome, DestinationReceipt
from agentd.snapshots.spool import Spool

TASK = "11111111-1111-4111-8111-111111111111"
WHEN = "2026-03-02T09:00:00Z"
CALLS = ("open", "write", "fsync", "close", "rename", "replace", "unlink")


def fitted(text):
    return fit([Message(0, "agent", text, WHEN)], max_messages=1)


def arm(deadly: int, moment: str) -> None:
    """Make the process die at the system call number `deadly`."""
    counted = 0

    def wrap(name):
        real = getattr(os, name)

        def call(*args, **kwargs):
            nonlocal counted
            counted += 1
            if counted != deadly:
                return real(*args, **kwargs)
            if moment == "middle" and name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            elif moment != "before":
                real(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("survived SIGKILL")

        setattr(os, name, call)

    for name in CALLS:
        wrap(name)


def main() -> None:
    root = Path(sys.argv[1])
    origin = root / "origin"
    spool = Spool(origin)
    spool.put(TASK, fitted("old " * 5000), captured_at=WHEN)
    spool.start_write().result()
    spool.close()
    for moment in ("before", "middle", "after"):
        for deadly in range(1, 100):
            directory = root / f"{moment}-{deadly}"
            shutil.copytree(origin, directory)
            pid = os.fork()
            if pid == 0:
                victim = Spool(directory)
                arm(deadly, moment)
                entry = victim.put(TASK, fitted("new " * 6000), captured_at=WHEN)
                victim.start_write().result()
                receipt = DestinationReceipt("coder", DestinationOutcome.DELIVERED, 204, "", 1, WHEN)
                victim.add_receipt(entry, receipt)
                victim.start_write().result()
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            died = os.WIFSIGNALED(status)
            print(json.dumps({"directory": str(directory), "died": died, "code": status}))
            if not died:
                break


main()
