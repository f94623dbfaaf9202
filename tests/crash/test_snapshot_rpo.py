"""kill -9 in the middle of a live conversation, two hundred times: how much of it is missing on the disk?

Several conversations go on at once, each with a daemon of its own that is killed after a random number of words and
started again on what it left. Nothing here is compared with a clock's idea of when something should have happened:
what the spool must hold follows from what the simulated AgentAPI had served to that very daemon, checkpoint_s + 1 s
before the kill. The time in which the kernel had the daemon wait for a processor does not count for it.
"""

import asyncio
import json
import os
import random
import re
import select
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentd.conversation.fit import messages_of
from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd
from agentd.snapshots.spool import read_without_lock

pytestmark = pytest.mark.crash

KILLS = 200
LANES = 4
CHECKPOINT_S = 0.1
BOUND_S = CHECKPOINT_S + 1.0
WORD_S = 0.02
NURSERY = Path(__file__).with_name("nursery.py")


class TalkingAgent(SimulatedAgentApi):
    """A conversation in which every state ends with a number, and a record of when which one was served."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.word = 0
        self.served: list[tuple[float, int]] = []
        self.heard = asyncio.Condition()

    def _messages(self):
        self.served.append((time.monotonic(), self.word))
        return super()._messages()

    async def talk(self) -> None:
        """Say a word every `WORD_S`: in a new message, or by rewriting the last one."""
        self.set_status("running")
        while True:
            self.word += 1
            last = self.conversation.messages[-1]
            if last["role"] == "user" or (len(last["content"]) < 4000 and self.chance.random() < 0.9):
                if last["role"] == "user":
                    self.add_message("agent", f"well, #{self.word}")
                else:
                    self.rewrite_last(f"{last['content']} and #{self.word}")
            else:
                self.add_message("user", f"go on, #{self.word}")
            if self.followers:
                self.served.append((time.monotonic(), self.word))
            if self.chance.random() < 0.02:
                self.set_status("stable" if self.conversation.status == "running" else "running")
            async with self.heard:
                self.heard.notify_all()
            await asyncio.sleep(WORD_S)

    async def until_word(self, number: int) -> None:
        async with self.heard:
            await self.heard.wait_for(lambda: self.word >= number)


@dataclass
class Death:
    """What a kill met: the words that had to be on the disk and were, and where the demand came from."""

    demanded: int
    held: int
    said: int
    wrong: list[str]
    from_this_life: bool


@dataclass
class Lane:
    """One conversation with its state directory; `deaths` of the daemons that were killed in it."""

    agent: TalkingAgent
    environ: dict[str, str]
    state: Path
    deaths: list[Death] = field(default_factory=list)

    def held(self) -> tuple[int, list[str]]:
        """The number of the last word on the disk, and what cannot be read there."""
        entries, wrong = read_without_lock(self.state / "spool")
        text = messages_of(entries[-1].payload)[-1].content if entries else ""
        found = re.search(r"#(\d+)$", text)
        return (int(found[1]) if found else 0), [one for one in wrong if "No such file" not in one]


def waited_s(pid: int) -> float:
    """How long the kernel has let the process wait for a processor, in all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[1]) for task in tasks) / 1e9


def gone(pid: int, pidfd: int) -> None:
    assert select.select([pidfd], [], [], 30)[0], f"{pid} outlives SIGKILL"


async def live_and_die(lane: Lane, start, words: int) -> Death:
    before, _ = lane.held()
    first = len(lane.agent.served)
    pid = await start(lane)
    pidfd = os.pidfd_open(pid)
    await lane.agent.until_word(lane.agent.word + words)
    starved_s = waited_s(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    horizon = time.monotonic() - BOUND_S - starved_s
    said = lane.agent.word
    await asyncio.to_thread(gone, pid, pidfd)
    os.close(pidfd)
    in_time = [word for at, word in lane.agent.served[first:] if at <= horizon]
    held, wrong = lane.held()
    return Death(max([before, *in_time]), held, said, wrong, from_this_life=bool(in_time))


async def lead(lane: Lane, start, chance: random.Random) -> None:
    talking = asyncio.create_task(lane.agent.talk(), name="talk")
    for _ in range(KILLS // LANES):
        lane.deaths.append(await live_and_die(lane, start, words=chance.randrange(2, 110)))
    talking.cancel()


async def test_killed_at_any_moment_the_spool_is_readable_and_at_most_a_checkpoint_and_a_second_behind(
    tmp_path,
):
    chance = random.Random(4)
    nursery = await asyncio.create_subprocess_exec(
        sys.executable, str(NURSERY), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    one_at_a_time = asyncio.Lock()

    async def start(lane: Lane) -> int:
        async with one_at_a_time:
            order = {"environ": lane.environ, "log": str(lane.state.with_suffix(".log"))}
            nursery.stdin.write(json.dumps(order).encode() + b"\n")
            return int(await nursery.stdout.readline())

    async with SimulatedCoderd(ping_s=0.5, rate_limit=0) as coderd:
        lanes = []
        for number in range(LANES):
            agent = TalkingAgent(random.Random(number))
            await agent.start()
            workspace, state = coderd.add_prebuild(), tmp_path / f"lane-{number}"
            environ = {
                "CODER_AGENT_URL": coderd.url,
                "CODER_AGENT_TOKEN": workspace.token,
                "AGENTD_STATE_DIR": str(state),
                "AGENTD_AGENTAPI_URL": agent.url,
                "AGENTD_AGENTAPI_POLL_INTERVAL_S": "0.1",
                "AGENTD_STABILITY_SETTLE_S": "0.2",
                "AGENTD_SNAPSHOTS_CHECKPOINT_S": str(CHECKPOINT_S),
                "AGENTD_SNAPSHOTS_TASK_ID": coderd.add_task(workspace),
                "AGENTD_CLAIMS_HOOKS_DIR": str(tmp_path / "hooks"),
            }
            lanes.append(Lane(agent, environ, state))
        async with asyncio.TaskGroup() as group:
            for number, lane in enumerate(lanes):
                group.create_task(lead(lane, start, random.Random(chance.random())), name=f"lane {number}")
        for lane in lanes:
            await lane.agent.stop()
    nursery.stdin.close()
    await nursery.wait()

    deaths = [death for lane in lanes for death in lane.deaths]
    assert len(deaths) == KILLS
    print(
        f"words behind at the kill, one a {WORD_S:g} s: {sorted(death.said - death.held for death in deaths)}"
    )
    assert [death for death in deaths if death.wrong] == []
    assert [death for death in deaths if death.held < death.demanded] == []
    # It must be able to fail: many kills made a demand of their own, and many cost words that were not on disk yet.
    assert sum(death.from_this_life for death in deaths) > KILLS // 8
    assert sum(death.held < death.said for death in deaths) > KILLS // 2
