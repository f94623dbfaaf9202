"""The agent's turns, which sent messages start, in PTY and in ACP mode."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from agentd.simulator.agentapi import sending
from agentd.simulator.agentapi.conversation import Conversation, Status


class Turns:
    """Accepts messages one at a time and runs a turn for each.

    PTY: a send takes `send_s`, and the turn begins when it ends. ACP: the send lasts for the whole turn.
    With `reply`, a turn ends after `turn_s` with the message `reply(prompt)`; without it, at `over()`. A PTY
    turn whose answer gives no new message never ends, see `Conversation.answer`.
    """

    def __init__(
        self,
        conversation: Conversation,
        *,
        set_status: Callable[[Status], None],
        reply: Callable[[str], str] | None,
        send_s: float,
        turn_s: float,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._conversation = conversation
        self._set_status = set_status
        self._reply = reply
        self._send_s = send_s
        self._turn_s = turn_s
        self._sleep = sleep
        self.lock = sending.SendLock()
        self.received: list[dict[str, str]] = []
        self._over = asyncio.Event()
        self._error = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(self, content: str, kind: str) -> None:
        """Deliver a message.

        Raises `sending.SendError`. Cancelling the caller does not cancel the delivery.
        """
        await asyncio.shield(self._spawn(self._deliver(content, kind), "send"))

    def over(self, error: str = "") -> None:
        """End the current turn, with `error` if it failed."""
        self._error = error
        self._over.set()

    async def close(self) -> None:
        """Cancel the sends and turns in progress."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _deliver(self, content: str, kind: str) -> None:
        recorded = kind == "user"
        async with self.lock:
            if recorded:
                content = sending.trimmed(content)
                if not content:
                    raise sending.SendError(sending.EMPTY)
                if self._conversation.status != "stable":
                    raise sending.SendError(sending.NOT_WAITING)
            self.received.append({"content": content, "type": kind})
            if self._conversation.mode == "acp":
                await self._prompt(content, recorded=recorded)
                return
            await self._sleep(self._send_s)
            if recorded:
                # The real server's loop sends the status before the messages.
                self._set_status("running")
                self._conversation.add("user", content)
        if recorded and self._reply is not None:
            self._spawn(self._take_turn(content, self._reply, recorded=True), "turn")

    async def _prompt(self, content: str, *, recorded: bool) -> None:
        self._over.clear()
        self._set_status("running")
        if recorded:
            self._conversation.add("user", content)
        before = len(self._conversation.messages)
        if self._reply is not None:
            await self._take_turn(content, self._reply, recorded=recorded)
        await self._over.wait()
        if self._error:
            if len(self._conversation.messages) > before:
                self._conversation.remove_last()
            raise sending.SendError(self._error)

    async def _take_turn(self, prompt: str, reply: Callable[[str], str], *, recorded: bool) -> None:
        await self._sleep(self._turn_s)
        if recorded and not self._conversation.answer(prompt, reply(prompt)):
            return
        self._set_status("stable")

    def _spawn(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"simulated agentapi: {what}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio would log the error of a send whose client disconnected
