"""The page of `agentd demo --ui`: shows each step of the demo, and drives the peers afterwards."""

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agentd.simulator.agentapi import SimulatedAgentApi
    from agentd.simulator.coderd import SimulatedCoderd
    from agentd.simulator.page import Page

OPEN_S: Final = 20.0
PAUSE_S: Final = 2.0


class DemoPage:
    """Shows the demo's steps on a page while inside `serve()`. After each sentence it pauses for `PAUSE_S`.

    `port` is the page's port: 0 for any free one, None for no page.
    """

    def __init__(self, port: int | None) -> None:
        self._port = port
        self._page: Page | None = None
        self.is_shown = port is not None
        self.daemon_listen = f"127.0.0.1:{_free_port()}" if self.is_shown else ""
        """The address of the daemon's own page, the same for every daemon of the demo."""

    @contextlib.asynccontextmanager
    async def serve(self, coderd: "SimulatedCoderd", agent: "SimulatedAgentApi") -> AsyncIterator[None]:
        """Serve the page, print its URL, and wait up to `OPEN_S` until a browser opens it."""
        if self._port is None:
            yield
            return
        from agentd.simulator.page import Page  # noqa: PLC0415 - not needed without --ui

        daemon_page = f"http://{self.daemon_listen}/"
        async with Page(
            coderd=coderd, agent=agent, port=self._port, links={"agentd's own page": daemon_page}
        ) as page:
            self._page = page
            print(f"page of the demo: {page.url}\npage of agentd:   {daemon_page}")
            print(f"The demo starts when the page of the demo is opened, or in {OPEN_S:.0f} s.", flush=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(page.until_open(), OPEN_S)
            yield

    async def show(self, sentence: str, tone: str = "") -> None:
        """Show the sentence and, if a browser has opened the page, pause. `tone` is "", "good" or "bad"."""
        if self._page is not None:
            self._page.show(sentence, tone)
            await asyncio.sleep(PAUSE_S if self._page.is_open else 0)

    async def until_enter(self) -> None:
        """Wait for Enter, the end of stdin, SIGINT or SIGTERM."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def read() -> None:
            if sys.stdin is not None:
                sys.stdin.readline()
            with contextlib.suppress(RuntimeError):  # a signal has ended the demo, and its loop is closed
                loop.call_soon_threadsafe(ended.set)

        for one in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(one, ended.set)
        # Not an executor: Python waits for its threads at exit, and readline() may never return.
        threading.Thread(target=read, name="waiting for Enter", daemon=True).start()
        await ended.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
