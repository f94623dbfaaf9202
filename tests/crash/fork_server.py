"""Starts real daemons quickly: a script that imports everything once and forks a process for each daemon.

Each line on stdin is one daemon as JSON, `{"environ": {…}, "log": "path"}`; the answer is its pid. The fork runs what
`agentd run` runs, without half a second of imports.
"""

import importlib
import json
import os
import signal
import sys

import agentd.daemon.run  # noqa: F401 - a daemon imports it at its start
from agentd import cli
from agentd.cli import run  # noqa: F401 - a daemon imports it at its start


def main() -> None:
    importlib.import_module("agentd.coderd.reinit_stream")
    # The test watches the daemons through a pidfd, so that the kernel may collect them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            run_daemon(order["environ"], order["log"])
        print(child, flush=True)


def run_daemon(environ: dict[str, str], log: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(environ)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard, replacement in ((0, os.open(os.devnull, os.O_RDONLY)), (1, file), (2, file)):
        os.dup2(replacement, standard)
    os._exit(cli.main(["run"]))


if __name__ == "__main__":
    main()
