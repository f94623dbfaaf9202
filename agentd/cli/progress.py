"""Prints the progress of `agentd stop` to stderr: each step once, with the seconds since the start.

agentd stop: 0.0 s stopping
agentd stop: 0.4 s captured 10 messages, 12,345 bytes
agentd stop: 0.4 s delivering to coder
agentd stop: 2.1 s coder: 503 Service Unavailable; trying again
agentd stop: 3.0 s delivered
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TextIO

from agentd.cli.local_client import call
from agentd.errors import AgentdError

POLL_INTERVAL_S: Final = 0.2
_STATUS_TIMEOUT_S: Final = 1.0
_OUTCOMES: Final = {
    "delivered": "delivered",
    "pending": "not delivered everywhere; kept in the spool",
    "nothing": "nothing to deliver",
}
UNSUPPORTED: Final = "no destination supports snapshots"
"""Also of an outcome `nothing`, if there are receipts: the snapshot stays in the spool."""


class Progress:
    """Prints steps to `out`, if that is not None. A step can be reported repeatedly and from any thread."""

    def __init__(self, out: TextIO | None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._now = now
        self._started_at = now()
        self._printed: set[str] = set()
        self._lock = threading.Lock()

    def stopping(self) -> None:
        self._print_once("stopping")

    def captured(self, receipt: Mapping[str, Any]) -> None:
        """The snapshot is in the spool and its delivery has started. `receipt` is the current one."""
        if not receipt["messages"]:
            return
        count, names = receipt["messages"], [one["name"] for one in receipt["destinations"]]
        self._print_once(
            f"captured {count} message{'s' * (count != 1)}, {receipt['bytes']:,} bytes", "captured"
        )
        if names:
            self._print_once(f"delivering to {', '.join(names)}", "delivering")
        for one in receipt["destinations"]:
            if one["outcome"] == "pending" and one.get("attempts"):
                self._print_once(f"{one['name']}: {one['detail']}; trying again")

    def finished(self, receipt: Mapping[str, Any]) -> None:
        """The final receipt. Also prints the steps that were too short for the poll."""
        self.stopping()
        self.captured(
            {**receipt, "destinations": [{**one, "attempts": 0} for one in receipt["destinations"]]}
        )
        kept = receipt["outcome"] == "nothing" and receipt["destinations"]
        self._print_once(
            f"kept in the spool; {UNSUPPORTED}" if kept else _OUTCOMES[receipt["outcome"]], "finished"
        )

    @contextlib.contextmanager
    def polling(self, socket: Path) -> Iterator[None]:
        """Poll the daemon at `socket` during the body. Ignores a daemon that does not answer."""
        if self._out is None:
            yield
            return
        done = threading.Event()
        poller = threading.Thread(target=self._poll, args=(socket, done), name="stop progress", daemon=True)
        poller.start()
        try:
            yield
        finally:
            done.set()
            poller.join()

    def _poll(self, socket: Path, done: threading.Event) -> None:
        while not done.wait(POLL_INTERVAL_S):
            try:
                status = call(socket, "GET", "/v1/status", timeout_s=_STATUS_TIMEOUT_S)
            except AgentdError:
                continue  # the daemon closes its socket before it exits
            if status.get("phase", "running") != "running":
                self.stopping()
            if status.get("phase") == "delivering" and status["snapshot"]["last_receipt"]:
                self.captured(status["snapshot"]["last_receipt"])

    def _print_once(self, text: str, step: str = "") -> None:
        with self._lock:
            if self._out is None or (step or text) in self._printed:
                return
            self._printed.add(step or text)
            # A closed terminal must not end the stop.
            with contextlib.suppress(OSError, ValueError):
                print(
                    f"agentd stop: {self._now() - self._started_at:.1f} s {text}", file=self._out, flush=True
                )
