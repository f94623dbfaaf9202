"""Keeps the proof of `unchanged` by the answers of `/status`, for a history that is too large to be read at a stop."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from agentd.agents.agent import AgentError
from agentd.agents.agentapi.client import AgentApiClient, StatusReading
from agentd.agents.agentapi.unchanged import UnchangedMessages
from agentd.conversation.message import Message

CHEAP_READ_BYTES: Final = 16 * 1024**2
"""A history up to this size is read within 50 ms, which is not worth a proof that it has not changed."""
STATUS_TIMEOUT_S: Final = 0.2
PERIOD_S: Final = 0.5


class Proof:
    """Whether the messages of the last read are the newest. The polls ask for the status by `read_status`."""

    def __init__(self, client: AgentApiClient) -> None:
        self._client = client
        self._unchanged = UnchangedMessages()
        self._readers = 0

    @property
    def messages(self) -> Sequence[Message]:
        """The messages of the last read, while they are proven."""
        return self._unchanged.messages

    @property
    def is_worth_polling(self) -> bool:
        """Whether the next poll keeps the proof for a large history."""
        return self._is_large and self._unchanged.is_proven

    async def read_status(self, *, timeout_s: float | None = None, fresh: bool = False) -> StatusReading:
        """`GET /status`, and what its answer means for the proof. Raises as `AgentApiClient.status` does."""
        try:
            status = await self._client.status(timeout_s=timeout_s, fresh=fresh)
        except AgentError:
            self._unchanged.on_doubt()
            raise
        if status.status == "stable" and status.transport != "acp":
            self._unchanged.on_stable(sent_at=self._client.status_sent_at, answered_at=self._client.now())
        else:
            self._unchanged.on_doubt()
        return status

    async def holds_now(self, keep: int) -> bool:
        """Whether `messages` are the newest `keep` of a large history now. Asks `/status` once."""
        if not self.is_worth_polling:
            return False
        began = self._client.now()
        with suppress(AgentError):
            await self.read_status(timeout_s=STATUS_TIMEOUT_S, fresh=True)
        return self._unchanged.is_proven_for(began, keep=keep)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Around a read of the messages: while it takes long, ask for the status as often as the proof needs it."""
        if self._readers == 0:
            self._unchanged.on_sent(self._client.now())
        self._readers += 1
        asking = asyncio.create_task(self._keep_asking(), name="status during a read")
        try:
            yield
        finally:
            self._readers -= 1
            asking.cancel()
            await asyncio.wait({asking})

    async def on_read(self, messages: Sequence[Message], *, keep: int) -> None:
        """The read has ended with the newest `keep` messages."""
        self._unchanged.on_read(messages, keep=keep, sent_at=self._client.messages_sent_at)
        await self.holds_now(keep)  # the next poll may be too late

    def on_doubt(self) -> None:
        """Something may have changed."""
        self._unchanged.on_doubt()

    async def _keep_asking(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            with suppress(AgentError):
                await self.read_status()

    @property
    def _is_large(self) -> bool:
        return self._client.history_bytes > CHEAP_READ_BYTES
