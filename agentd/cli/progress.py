"""How far a stop has come, live on stderr: each step once, in order, with the seconds since the command was typed.

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

POLL_S: Final = 0.2
_STATUS_TIMEOUT_S: Final = 1.0
_END: Final = {
    "delivered": "delivered",
    "pending": "not delivered everywhere; kept in the spool",
    "nothing": "nothing to deliver",
}


class Progress:
    """Says the steps to `out`; to nobody when that is None. Steps may be told again and again, from any thread."""

    def __init__(self, out: TextIO | None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._now = now
        self._began_at = now()
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def stopping(self) -> None:
        self._say("stopping")

    def captured(self, receipt: Mapping[str, Any]) -> None:
        """The conversation is safe and on its way: a receipt as far as it is known."""
        if not receipt["messages"]:
            return
        count, names = receipt["messages"], [one["name"] for one in receipt["destinations"]]
        self._say(f"captured {count} message{'s' * (count != 1)}, {receipt['bytes']:,} bytes", "captured")
        if names:
            self._say(f"delivering to {', '.join(names)}", "delivering")
        for one in receipt["destinations"]:
            if one["outcome"] == "pending" and one.get("attempts"):
                self._say(f"{one['name']}: {one['detail']}; trying again")

    def over(self, receipt: Mapping[str, Any]) -> None:
        """The last receipt, with whatever was too quick to be seen."""
        self.stopping()
        self.captured(
            {**receipt, "destinations": [{**one, "attempts": 0} for one in receipt["destinations"]]}
        )
        self._say(_END[receipt["outcome"]], "over")

    @contextlib.contextmanager
    def watching(self, socket: Path) -> Iterator[None]:
        """Meanwhile, ask the daemon at `socket` how far it is. That it no longer answers is for the caller to see."""
        if self._out is None:
            yield
            return
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(socket, over), name="stop progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _watch(self, socket: Path, over: threading.Event) -> None:
        while not over.wait(POLL_S):
            try:
                status = call(socket, "GET", "/v1/status", timeout_s=_STATUS_TIMEOUT_S)
            except AgentdError:
                continue  # a daemon at its very end answers nobody any more
            if status.get("phase", "running") != "running":
                self.stopping()
            if status.get("phase") == "delivering" and status["snapshot"]["last_receipt"]:
                self.captured(status["snapshot"]["last_receipt"])

    def _say(self, text: str, step: str = "") -> None:
        with self._lock:
            if self._out is None or (step or text) in self._said:
                return
            self._said.add(step or text)
            # A terminal that has gone away must not end a stop.
            with contextlib.suppress(OSError, ValueError):
                print(f"agentd stop: {self._now() - self._began_at:.1f} s {text}", file=self._out, flush=True)
