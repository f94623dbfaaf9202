"""Who watches `agentd demo --ui`: a page that is told each sentence, time to look at it, and the stage left open after."""

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentd.simulator.agentapi import SimulatedAgentApi
    from agentd.simulator.coderd import SimulatedCoderd
    from agentd.simulator.page import Page

ARRIVAL_S = 20.0
LOOK_S = 2.0


class Audience:
    """Nobody, until `seated`; `port` is the page's (0: any free one). After each sentence it is given `LOOK_S`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._page: Page | None = None
        self.daemon_listen = f"127.0.0.1:{_free_port()}"
        """Where every daemon of the demo serves its own page, one after the other."""

    @contextlib.asynccontextmanager
    async def seated(self, coderd: "SimulatedCoderd", agent: "SimulatedAgentApi") -> AsyncIterator[None]:
        """Serve the page, say where, and wait a while for somebody to open it."""
        from agentd.simulator.page import Page  # noqa: PLC0415 - who does not watch does not pay for it

        links = {"agentd's own page": f"http://{self.daemon_listen}/"}
        async with Page(coderd=coderd, agent=agent, port=self._port, links=links) as page:
            self._page = page
            print(f"watch it:    {page.url}\nagentd's own: {links[next(iter(links))]}")
            print(f"(it begins when the page is opened, or in {ARRIVAL_S:.0f} s)", flush=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(page.opened(), ARRIVAL_S)
            yield

    async def tell(self, sentence: str, tone: str = "") -> None:
        """Show the sentence, and give whoever looks on time to see what it speaks of. `tone` is "", "good" or "bad"."""
        if self._page is not None:
            self._page.tell(sentence, tone)
            await asyncio.sleep(LOOK_S if self._page.is_watched else 0)

    async def leave(self) -> None:
        """Return at Enter, at the end of stdin, or at a signal that asks to stop."""
        loop, leaving = asyncio.get_running_loop(), asyncio.Event()

        def read() -> None:
            if sys.stdin is not None:
                sys.stdin.readline()
            with contextlib.suppress(RuntimeError):  # the demo has ended by a signal, and its loop with it
                loop.call_soon_threadsafe(leaving.set)

        for one in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(one, leaving.set)
        # No executor: its threads are waited for at the end, and this one may read for ever.
        threading.Thread(target=read, name="waiting for Enter", daemon=True).start()
        await leaving.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
