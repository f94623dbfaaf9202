"""The end of a run, once the conversation has been read for the last time: deliver it and, where asked, end AgentAPI."""

import asyncio
from typing import Final

from agentd import log
from agentd.agents.agentapi.client import AgentError
from agentd.daemon.build import Rooms
from agentd.snapshots.entry import SpoolEntry
from agentd.snapshots.receipts import SnapshotOutcome

# To learn which version it is. It hangs while a message is being delivered, and then is better not asked to save.
STATUS_TIMEOUT_S: Final = 1.0


async def deliver_and_end_agent(rooms: Rooms, entry: SpoolEntry | None, deadline: float) -> None:
    """Deliver until `deadline` (monotonic seconds) and, with `shutdown.stop_agent`, end AgentAPI meanwhile.

    Not before the snapshot is safe: `entry`, the last one, on disk or delivered. As long as it is neither, the agent
    itself is the only one that still has the conversation after our end.
    """
    async with asyncio.TaskGroup() as group:
        delivering = group.create_task(rooms.delivery.flush(deadline), name="last delivery")
        if not rooms.config.shutdown.stop_agent:
            return
        if (
            entry is not None
            and not entry.durable
            and (await delivering).outcome is not SnapshotOutcome.DELIVERED
        ):
            log.get("daemon").warning("agent.left_running", reason="the snapshot is in memory only")
            return
        await _end_agent(rooms, deadline)


async def _end_agent(rooms: Rooms, deadline: float) -> None:
    from agentd.agents.agentapi.process import NotTheAgent, end_agent  # noqa: PLC0415 - off unless asked for

    logger = log.get("daemon")
    pid_file = rooms.config.agentapi.pid_file
    if pid_file is None:
        logger.warning("agent.left_running", reason="agentapi.pid_file is not set")
        return
    try:
        saves_state = await _saves_state(rooms)
        left_s = max(0.0, deadline - rooms.clock.monotonic())
        ending = await end_agent(pid_file, saves_state=saves_state, timeout_s=left_s)
    except NotTheAgent as error:
        logger.warning("agent.left_running", reason=str(error))
    else:
        logger.info("agent.ended", outcome=ending.value, pid_file=str(pid_file), saved_first=saves_state)


async def _saves_state(rooms: Rooms) -> bool:
    """Whether SIGUSR1 saves the state: since 0.12.0, which also began to tell the transport, and not in ACP mode."""
    try:
        async with asyncio.timeout(STATUS_TIMEOUT_S):
            return (await rooms.agent.status()).transport == "pty"
    except (AgentError, TimeoutError):
        return False
