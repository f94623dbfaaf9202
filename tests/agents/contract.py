"""What holds for every kind of agent. A kind passes by a subclass of `AgentContract` with a `stage` fixture.

class TestMyKind(AgentContract):
    @pytest.fixture
    async def stage(self, fake_clock): ...   # yields a Stage
"""

import asyncio
from contextlib import aclosing, suppress
from typing import Protocol

import pytest

from agentd import log
from agentd.agents.agent import (
    Activity,
    Agent,
    AgentError,
    AgentGoneError,
    CannotEndError,
    Diagnosis,
    LastMessage,
    Strength,
)
from agentd.conversation.redaction import REPLACEMENT, Redactor
from agentd.stability.tracker import AgentStatus, Tracker
from agentd.stability.watcher import Watcher

SECRET = "s3cr3t-4fbd0e1c9a7b45d2"
REDACT = Redactor(values=log.registered_secrets, patterns=[r"pin-[0-9]+"])
"""What the daemon gives to every kind. A stage gives it to its agent."""


class Stage(Protocol):
    """An agent of one kind, and what a test can make it do. It starts idle, with one message of each role."""

    agent: Agent

    async def work(self, prompt: str) -> None:
        """The user writes `prompt`, and the agent begins a turn."""

    async def finish(self, answer: str) -> None:
        """The agent answers and ends its turn."""

    async def ask(self, question: str) -> None:
        """Inside a turn, the agent asks the user. Raises `NotImplementedError` where this kind does not tell."""

    async def stop(self) -> None:
        """The agent's process ends."""

    async def start(self) -> None:
        """It starts again, with a new conversation."""

    async def break_down(self) -> None:
        """It answers nonsense, or its files are damaged."""

    def received(self) -> list[str]:
        """Input that the agent was sent."""


class AgentContract:
    @pytest.fixture
    def agent(self, stage):
        return stage.agent

    @pytest.fixture
    def watcher(self, stage, fake_clock):
        return Watcher(
            agent=stage.agent,
            tracker=Tracker(5.0),
            clock=fake_clock.as_clock(),
            poll_interval_s=1.0,
            checkpoint_s=5.0,
            keep_messages=3,
        )

    # Observing.

    async def test_a_turn_is_busy_then_idle(self, stage, agent):
        assert (await agent.observe()).activity is Activity.IDLE
        await stage.work("do it")
        assert (await agent.observe()).activity is Activity.BUSY
        await stage.finish("done")
        assert (await agent.observe()).activity is Activity.IDLE

    async def test_a_question_inside_a_turn_is_waiting(self, stage, agent):
        await stage.work("do it")
        try:
            await stage.ask("may I?")
        except NotImplementedError:
            pytest.skip("this kind does not tell a question from work")
        observation = await agent.observe()
        assert observation.activity is Activity.WAITING
        assert observation.strength > Strength.INFERRED, "waiting is never a guess"
        assert "may I?" in observation.evidence

    async def test_an_agent_that_ended_is_gone_and_one_that_starts_again_is_found(self, stage, agent):
        await stage.stop()
        observation = await agent.observe()
        assert observation.activity is Activity.GONE
        assert observation.evidence, "the reason is named"
        assert not observation.readable
        await stage.start()
        assert (await agent.observe()).activity in (Activity.IDLE, Activity.BUSY)

    async def test_a_session_is_live_while_the_agent_runs(self, stage, agent):
        await agent.observe()
        assert [session.is_live for session in await agent.sessions()][:1] == [True]
        await stage.stop()
        await agent.observe()
        assert not any(session.is_live for session in await agent.sessions())

    async def test_an_agent_that_cannot_be_understood_is_broken_and_is_not_an_exception(self, stage, agent):
        await stage.break_down()
        observation = await agent.observe()
        assert observation.activity is Activity.BROKEN
        assert observation.evidence

    # Messages.

    async def test_messages_are_the_newest_ones_oldest_first(self, stage, agent):
        await stage.work("one")
        await stage.finish("two")
        messages = await agent.messages(keep=3)
        assert [(message.role, message.content) for message in messages][-2:] == [
            ("user", "one"),
            ("agent", "two"),
        ]
        assert len(messages) == 3
        assert list(await agent.messages(keep=1)) == list(messages[-1:])

    async def test_fresh_messages_have_what_was_written_before_the_call(self, stage, agent):
        async with Following(agent) as following:
            for number in range(5):
                await stage.work(f"prompt {number}")
                await stage.finish(f"answer {number}")
                messages = await agent.messages(keep=2, fresh=True)
                assert messages[-1].content == f"answer {number}"
            assert following.error is None

    async def test_a_last_message_that_is_known_without_a_read_is_the_one_of_the_read(self, stage, agent):
        async with Following(agent):
            await stage.work("one")
            await stage.finish("two")
            messages = await agent.messages(keep=2)
            async with asyncio.timeout(5):
                while (last := (await agent.observe()).last) not in (None, LastMessage.of(messages)):
                    await asyncio.sleep(0.01)
            assert last in (None, LastMessage.of(messages))

    async def test_messages_of_an_agent_that_is_gone_raise_a_named_error(self, stage, agent):
        await stage.stop()
        with pytest.raises(AgentGoneError):
            await agent.messages(keep=3, timeout_s=2)
        saved = [message.content for message in await agent.saved_messages(keep=3)]
        assert saved in ([], ["hello", "hello yourself"]), "what the agent left, or nothing"

    @pytest.mark.parametrize("before", ["", "x " * 85, "x " * 97, "x " * 245])
    async def test_no_message_and_no_evidence_has_a_secret(self, stage, agent, before):
        log.register_secret(SECRET)
        text = f"{before}{SECRET} and pin-1234"
        shown = []
        async with Following(agent) as following:
            await stage.work(text)
            shown.append((await agent.observe()).evidence)
            with suppress(NotImplementedError):
                await stage.ask(text)
                shown.append((await agent.observe()).evidence)
            await stage.finish(text)
            shown.append((await agent.observe()).evidence)
            read = [*await agent.messages(keep=3), *await agent.messages(keep=3, fresh=True)]
            read += await agent.messages(keep=3)
        await stage.stop()
        shown.append((await agent.observe()).evidence)
        read += await agent.saved_messages(keep=3)
        shown += [message.content for message in read] + following.evidence
        assert f"{before}{REPLACEMENT} and {REPLACEMENT}" in shown
        # At most four characters of a secret are left where a text is cut.
        assert [one for one in shown if SECRET[:5] in one or SECRET[-5:] in one or "pin-1" in one] == []

    async def test_evidence_of_an_agent_that_cannot_be_understood_has_no_secret(self, stage, agent):
        log.register_secret(SECRET)
        await stage.work(SECRET)
        await stage.break_down()
        assert SECRET not in (await agent.observe()).evidence

    # Announcements.

    async def test_polling_alone_shows_a_turn(self, stage, watcher, fake_clock):
        seen = statuses_of(watcher)
        await polls(watcher, fake_clock, 8)
        await stage.work("do it")
        await polls(watcher, fake_clock, 2)
        await stage.finish("done")
        await polls(watcher, fake_clock, 8)
        await stage.stop()
        await polls(watcher, fake_clock, 2)
        assert [status for status in seen if status is not AgentStatus.SETTLING] == [
            AgentStatus.STABLE,
            AgentStatus.RUNNING,
            AgentStatus.STABLE,
            AgentStatus.UNREACHABLE,
        ]

    async def test_a_change_that_is_announced_is_known_before_the_next_poll(self, stage, agent):
        async with Following(agent) as following:
            if not await following.announcing():
                pytest.skip("this kind announces nothing")
            await stage.work("do it")
            await following.until(lambda: Activity.BUSY in following.activities)
            await stage.finish("done")
            await following.until(lambda: following.activities[-1] is Activity.IDLE)

    async def test_the_end_of_announcements_is_announced(self, stage, agent):
        async with Following(agent) as following:
            if not await following.announcing():
                pytest.skip("this kind announces nothing")
            await stage.stop()
            await following.until(lambda: following.losses > 0)
            assert not agent.is_announcing

    # Acting.

    async def test_input_reaches_the_agent_once(self, stage, agent):
        if not agent.can.send_input:
            pytest.skip("this kind takes no input")
        await agent.observe()
        await agent.send("hello agent")
        assert stage.received() == ["hello agent"]

    async def test_input_for_an_agent_that_is_gone_raises_a_named_error(self, stage, agent):
        if not agent.can.send_input:
            pytest.skip("this kind takes no input")
        await stage.stop()
        with pytest.raises(AgentError):
            await agent.send("hello")

    async def test_what_a_kind_cannot_do_raises_a_named_error(self, agent):
        await agent.observe()
        if not agent.can.send_input:
            with pytest.raises(AgentError):
                await agent.send("hello")
        if not agent.can.end_process:
            with pytest.raises(CannotEndError):
                await agent.end(timeout_s=1)

    # Whatever the agent does.

    @pytest.mark.parametrize("state", ["idle", "working", "gone", "broken"])
    async def test_nothing_that_describes_the_agent_raises_in_any_state(self, stage, agent, state):
        match state:
            case "working":
                await stage.work("x")
            case "gone":
                await stage.stop()
            case "broken":
                await stage.break_down()
        async with asyncio.timeout(8):
            await agent.observe()
            assert all(session.id is not None for session in await agent.sessions())
            diagnosis = await agent.diagnose()
        assert isinstance(diagnosis, Diagnosis)
        assert (diagnosis.severity == "ok") == (state in ("idle", "working"))
        assert diagnosis.cause
        assert diagnosis.severity == "ok" or diagnosis.remedy

    async def test_the_kind_is_a_lower_case_name(self, agent):
        assert agent.kind.replace("-", "").isalnum()
        assert agent.kind == agent.kind.lower()

    async def test_close_may_be_called_twice(self, agent):
        await agent.observe()
        await agent.close()
        await agent.close()


def statuses_of(watcher) -> list[AgentStatus]:
    seen: list[AgentStatus] = []
    watcher.status_changed.add(lambda change: seen.append(change.new))
    return seen


async def polls(watcher, fake_clock, times) -> None:
    for _ in range(times):
        await watcher.poll()
        await fake_clock.advance(1.0)


class Following:
    """Reads the agent's announcements in a task."""

    def __init__(self, agent) -> None:
        self.activities: list[Activity] = []
        self.evidence: list[str] = []
        self.losses = 0
        self.error: BaseException | None = None
        self._agent = agent

    async def __aenter__(self):
        self._task = asyncio.create_task(self._read())
        await self.announcing()
        return self

    async def __aexit__(self, *_exc):
        if self._task.done():
            self.error = self._task.exception()
        self._task.cancel()
        await asyncio.wait({self._task})

    async def announcing(self) -> bool:
        for _ in range(200):
            if self._agent.is_announcing:
                return True
            await asyncio.sleep(0.005)
        return False

    async def until(self, predicate) -> None:
        async with asyncio.timeout(5):
            while not predicate():
                await asyncio.sleep(0.005)

    async def _read(self) -> None:
        async with aclosing(self._agent.changes()) as changes:
            async for change in changes:
                self.losses += change.lost
                if change.observation is not None:
                    self.activities.append(change.observation.activity)
                    self.evidence.append(change.observation.evidence)
