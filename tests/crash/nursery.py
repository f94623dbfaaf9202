"""Starts real daemons quickly: everything is imported once, and each daemon is a fork of that.

Reads one line of JSON per daemon, `{"environ": {…}, "log": "path"}`, and answers with its pid. What is forked here runs
exactly what `agentd run` runs; only the half second of imports is saved, two hundred times.
"""

import importlib
import json
import os
import signal
import sys

import agentd.daemon.run  # noqa: F401 - what a daemon would import at its start
from agentd import cli
from agentd.cli import run  # noqa: F401 - the same


def main() -> None:
    importlib.import_module("agentd.coderd.reinit_stream")
    signal.signal(
        signal.SIGCHLD, signal.SIG_IGN
    )  # nobody waits for them: the test kills and watches them itself
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            live(order["environ"], order["log"])
        print(child, flush=True)


def live(environ: dict[str, str], log: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(environ)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard, replacement in ((0, os.open(os.devnull, os.O_RDONLY)), (1, file), (2, file)):
        os.dup2(replacement, standard)
    os._exit(cli.main(["run"]))


if __name__ == "__main__":
    main()
