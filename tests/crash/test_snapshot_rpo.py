"""kill -9 during a live conversation, two hundred times: how much of the conversation is missing on the disk?

Several conversations run at once. Each has its own daemon, which is killed after a random number of words and started
again with the same state directory. No fixed time is expected: what the spool must contain follows from what the
simulated AgentAPI had served to that daemon, `checkpoint_s` + 1 s before the kill. The time that the daemon or the
simulated AgentAPI waited for a processor is added to that second.
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
from agentd.snapshots.spool_files import read_without_lock

pytestmark = pytest.mark.crash

CONVERSATIONS = 4
CHECKPOINT_S = 0.1
BOUND_S = CHECKPOINT_S + 1.0
WORD_S = 0.02
FORK_SERVER = Path(__file__).with_name("fork_server.py")


class TalkingAgent(SimulatedAgentApi):
    """Numbers each word of its conversation, and records when it served which number."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.word = 0
        self.served: list[tuple[float, int]] = []
        self.grew = asyncio.Condition()

    def _messages(self):
        self.served.append((time.monotonic(), self.word))
        return super()._messages()

    async def talk(self) -> None:
        """Add a word every `WORD_S`: in a new message, or by rewriting the last one."""
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
            async with self.grew:
                self.grew.notify_all()
            await asyncio.sleep(WORD_S)

    async def until_word(self, number: int) -> None:
        async with self.grew:
            await self.grew.wait_for(lambda: self.word >= number)


@dataclass
class Kill:
    """The state at one kill, in numbers of words."""

    required: int
    """The newest word that the disk had to contain."""
    on_disk: int
    spoken: int
    unreadable: list[str]
    from_this_run: bool
    """Whether the requirement comes from the run of the daemon that was killed."""


@dataclass
class Conversation:
    """One conversation, its state directory, and the kills of its daemons."""

    agent: TalkingAgent
    environ: dict[str, str]
    state: Path
    kills: list[Kill] = field(default_factory=list)

    def on_disk(self) -> tuple[int, list[str]]:
        """The number of the last word on the disk, and the files that cannot be read."""
        entries, wrong = read_without_lock(self.state / "spool")
        text = messages_of(entries[-1].payload)[-1].content if entries else ""
        found = re.search(r"#(\d+)$", text)
        return (int(found[1]) if found else 0), [one for one in wrong if "No such file" not in one]


def waited_s(pid: int) -> float:
    """How long the process has waited for a processor, in all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[1]) for task in tasks) / 1e9


def wait_gone(pid: int, pidfd: int) -> None:
    assert select.select([pidfd], [], [], 30)[0], f"{pid} still runs after SIGKILL"


async def run_and_kill(conversation: Conversation, start, words: int) -> Kill:
    before, _ = conversation.on_disk()
    first, own_wait_s = len(conversation.agent.served), waited_s(os.getpid())
    pid = await start(conversation)
    pidfd = os.pidfd_open(pid)
    await conversation.agent.until_word(conversation.agent.word + words)
    wait_s = waited_s(pid) + max(0.0, waited_s(os.getpid()) - own_wait_s)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    horizon = time.monotonic() - BOUND_S - wait_s
    spoken = conversation.agent.word
    await asyncio.to_thread(wait_gone, pid, pidfd)
    os.close(pidfd)
    in_time = [word for at, word in conversation.agent.served[first:] if at <= horizon]
    on_disk, unreadable = conversation.on_disk()
    return Kill(max([before, *in_time]), on_disk, spoken, unreadable, from_this_run=bool(in_time))


async def run_conversation(conversation: Conversation, start, lengths: list[int]) -> None:
    talking = asyncio.create_task(conversation.agent.talk(), name="talk")
    for words in lengths:
        conversation.kills.append(await run_and_kill(conversation, start, words))
    talking.cancel()


async def kill_series(home: Path, chance: random.Random, *, kills: int, words: tuple[int, int]) -> list[Kill]:
    """Kill a daemon `kills` times, each after a number of words in the range `words`; check what is on the disk."""
    fork_server = await asyncio.create_subprocess_exec(
        sys.executable, str(FORK_SERVER),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    one_at_a_time = asyncio.Lock()

    async def start(conversation: Conversation) -> int:
        async with one_at_a_time:
            order = {"environ": conversation.environ, "log": str(conversation.state.with_suffix(".log"))}
            fork_server.stdin.write(json.dumps(order).encode() + b"\n")
            return int(await fork_server.stdout.readline())

    async with SimulatedCoderd(ping_s=0.5, rate_limit=0) as coderd:
        conversations = []
        for number in range(CONVERSATIONS):
            agent = TalkingAgent(random.Random(number))
            await agent.start()
            workspace, state = coderd.add_prebuild(), home / f"conversation-{number}"
            environ = {
                "CODER_AGENT_URL": coderd.url,
                "CODER_AGENT_TOKEN": workspace.token,
                "AGENTD_STATE_DIR": str(state),
                "AGENTD_AGENTAPI_URL": agent.url,
                "AGENTD_AGENTAPI_POLL_INTERVAL_S": "0.1",
                "AGENTD_STABILITY_SETTLE_S": "0.2",
                "AGENTD_SNAPSHOTS_CHECKPOINT_S": str(CHECKPOINT_S),
                "AGENTD_SNAPSHOTS_TASK_ID": coderd.add_task(workspace),
                "AGENTD_CLAIMS_HOOKS_DIR": str(home / "hooks"),
            }
            conversations.append(Conversation(agent, environ, state))
        async with asyncio.TaskGroup() as group:
            for conversation in conversations:
                lengths = [chance.randrange(*words) for _ in range(kills // CONVERSATIONS)]
                group.create_task(
                    run_conversation(conversation, start, lengths), name=conversation.state.name
                )
        for conversation in conversations:
            await conversation.agent.stop()
    fork_server.stdin.close()
    await fork_server.wait()

    done = [kill for conversation in conversations for kill in conversation.kills]
    assert len(done) == kills
    print(
        f"words missing at the kill, one per {WORD_S:g} s: {sorted(kill.spoken - kill.on_disk for kill in done)}"
    )
    assert [kill for kill in done if kill.unreadable] == []
    assert [kill for kill in done if kill.on_disk < kill.required] == []
    return done


async def test_killed_a_few_times_the_spool_is_readable_and_at_most_a_checkpoint_and_a_second_behind(
    tmp_path, seed
):
    done = await kill_series(tmp_path, random.Random(seed), kills=8, words=(70, 110))
    assert sum(kill.on_disk < kill.spoken for kill in done) > 0


@pytest.mark.long
async def test_killed_at_any_moment_the_spool_is_readable_and_at_most_a_checkpoint_and_a_second_behind(
    tmp_path, seed
):
    done = await kill_series(tmp_path, random.Random(seed), kills=200, words=(2, 110))
    # The test must be able to fail: many kills set a requirement, and many lost words.
    assert sum(kill.from_this_run for kill in done) > len(done) // 8
    assert sum(kill.on_disk < kill.spoken for kill in done) > len(done) // 2
