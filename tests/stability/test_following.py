"""The watcher with the event stream up: sooner, and while nothing else answers."""

import asyncio

from agents.scripted import ScriptedAgent
from structlog.testing import capture_logs

from agentd.agents.agent import Activity
from agentd.agents.agentapi import agent as agent_module
from agentd.stability.task_reports import TaskReports
from agentd.stability.tracker import AgentStatus, Tracker
from agentd.stability.watcher import Watcher
from agentd.worker_thread import WorkerThread

UNKNOWN, RUNNING, WAITING, SETTLING, STABLE, UNREACHABLE = AgentStatus


async def test_a_status_change_is_known_before_any_poll(following):
    polls = following.asked("status")
    following.simulated.set_status("running")
    await following.until(lambda: following.states[-1] is RUNNING)
    assert following.asked("status") == polls


async def test_a_turn_is_settled_with_the_stream_up(following):
    following.simulated.set_status("running")
    following.simulated.add_message("user", "more")
    await following.seconds(3)
    following.simulated.add_message("agent", "as you wish")
    following.simulated.set_status("stable")
    await following.seconds(8)
    assert following.states[-3:] == [RUNNING, SETTLING, STABLE]
    assert following.windows[-1] == ["done", "more", "as you wish"]


async def test_messages_that_appear_while_a_message_is_delivered_are_read(following):
    following.simulated.hang()
    following.simulated.set_status("running")
    following.simulated.add_message("user", "a long turn")
    with following.short_timeouts("status", "messages"):
        for second in range(1, 4):
            following.simulated.add_message("agent", f"thought {second}")
            await following.clock.advance(1.0)
            await following.until(lambda second=second: following.windows[-1][-1] == f"thought {second}")
    assert following.windows[-1] == ["thought 1", "thought 2", "thought 3"]
    assert following.tracker.status is RUNNING
    following.simulated.release()


async def test_a_streaming_screen_is_read_once_a_second(following):
    following.simulated.set_status("running")
    before = len(following.windows)
    for _ in range(3):
        for frame in range(20):
            following.simulated.rewrite_last(f"frame {frame}")
        await following.seconds(1)
    await following.until(lambda: following.windows[-1][-1] == "frame 19")
    assert len(following.windows) - before <= 8


async def test_while_the_stream_is_up_a_running_agents_history_is_not_read_again_and_again(following):
    following.simulated.set_status("running")
    await following.seconds(2)
    before = following.asked("messages")
    await following.seconds(30)
    assert following.asked("messages") == before


async def test_a_stable_agent_with_the_stream_up_is_polled_every_five_seconds(following):
    await following.seconds(45)
    before = following.asked("status")
    await following.seconds(60)
    assert following.asked("status") - before <= 13


async def test_a_long_pause_ends_when_the_stream_announces_a_change(following):
    await following.seconds(45)
    before = following.asked("status")
    following.simulated.set_status("running")
    await following.until(lambda: following.asked("status") > before)


async def test_the_end_of_the_stream_shows_that_the_agent_stopped(following):
    await following.seconds(45)
    now = following.clock.now
    await following.simulated.stop()
    await following.until(lambda: following.states[-1] is UNREACHABLE)
    assert following.clock.now == now


async def test_a_turn_is_noticed_although_the_stream_was_down(following):
    """Blind window: the stream is down while the agent goes stable, running, stable."""
    await following.seconds(8)
    assert following.states[-1] is STABLE
    for kept in list(following.simulated.conversation.followers):
        kept.queue.put_nowait(None)
    await following.until(lambda: not following.agent.is_announcing)
    following.simulated.set_status("running")
    following.simulated.add_message("user", "quick")
    following.simulated.add_message("agent", "there")
    following.simulated.set_status("stable")
    await following.seconds(10)
    assert following.windows[-1] == ["done", "quick", "there"]
    assert following.states[-2:] == [SETTLING, STABLE]
    assert following.agent.is_announcing


async def test_a_turn_while_the_stream_was_down_is_reported_as_working_and_as_idle(following, tmp_path):
    """Too short for any look, and unheard: the task's state still goes through it, because its message is there."""
    said = []
    following.task_reports = TaskReports(
        folder=tmp_path, clock=following.clock.as_clock(), disk=WorkerThread("state")
    )
    following.task_reports.changed.add(lambda report: said.append(report.state.value))
    await following.seconds(8)
    assert following.states[-1] is STABLE
    for kept in list(following.simulated.conversation.followers):
        kept.queue.put_nowait(None)
    await following.until(lambda: not following.agent.is_announcing)
    said.clear()
    following.simulated.set_status("running")
    following.simulated.add_message("user", "quick")
    following.simulated.add_message("agent", "there")
    following.simulated.set_status("stable")
    await following.seconds(10)
    assert said == ["working", "idle"]


async def test_while_the_stream_is_down_the_agent_is_polled_often(following):
    await following.seconds(45)
    following.simulated.fault("html_502", route="events", times=1000)
    for kept in list(following.simulated.conversation.followers):
        kept.queue.put_nowait(None)
    await following.until(lambda: not following.agent.is_announcing)
    await following.seconds(12)
    before = following.asked("status")
    await following.seconds(60)
    assert following.asked("status") - before >= 30


async def test_a_stream_that_always_fails_is_not_tried_all_the_time(following):
    following.simulated.fault("html_502", route="events", times=1000)
    for kept in list(following.simulated.conversation.followers):
        kept.queue.put_nowait(None)
    await following.until(lambda: not following.agent.is_announcing)
    with capture_logs() as logs:
        await following.seconds(120)
    assert following.asked("events") <= 25
    assert [entry for entry in logs if entry["event"].startswith("agent.events")] == []


async def test_an_agent_that_restarts_is_followed_again(following):
    await following.simulated.restart()
    await following.seconds(5)
    assert following.states[-1] in (UNREACHABLE, SETTLING, STABLE)
    await following.seconds(60)
    assert following.agent.is_announcing
    assert following.states[-1] is STABLE
    assert following.windows[-1] == [""]


async def test_a_stopped_agent_is_not_connected_to(following):
    await following.simulated.stop()
    await following.seconds(5)
    before = following.asked("events")
    await following.seconds(60)
    assert following.asked("events") == before
    assert following.states[-1] is UNREACHABLE


async def test_an_answer_that_was_taken_back_is_gone_after_the_turn(following):
    following.simulated.set_status("running")
    following.simulated.add_message("agent", "half an answ")
    await following.until(lambda: following.windows[-1][-1] == "half an answ")
    following.simulated.conversation.remove_last()
    following.simulated.set_status("stable")
    await following.seconds(8)
    assert following.windows[-1][-1] == "done"
    assert following.states[-1] is STABLE


async def test_colliding_ids_make_the_watcher_read_the_history(following):
    following.simulated.collide_ids()
    before = following.asked("messages")
    following.simulated.add_message("user", "which id is mine?")
    await following.seconds(3)
    assert following.asked("messages") > before
    assert following.windows[-1][-1] == "which id is mine?"


async def test_a_complaint_is_logged_once_though_every_connect_replays_it(following):
    with capture_logs() as logs:
        following.simulated.agent_error("state file is corrupt", "warning")
        await following.until(lambda: logs)
        for kept in list(following.simulated.conversation.followers):
            kept.queue.put_nowait(None)
        await following.until(lambda: not following.agent.is_announcing)
        await following.seconds(5)
        await following.until(lambda: following.agent.is_announcing)
    assert [entry["said"] for entry in logs if entry["event"] == "agent.complained"] == [
        "state file is corrupt"
    ]


async def test_a_message_larger_than_an_event_may_be_is_still_read_by_the_poll(following):
    following.simulated.set_status("running")
    await following.seconds(2)
    following.simulated.add_message("agent", "x" * 3_000_000 + " the end")
    await following.until(lambda: not following.agent.is_announcing)
    await following.seconds(8)
    assert following.windows[-1][-1].endswith("the end")
    assert len(following.windows[-1][-1]) < 400_000


async def test_a_history_too_large_to_replay_is_only_polled(following, monkeypatch):
    monkeypatch.setattr(agent_module, "REPLAY_MAX_BYTES", 100)
    for kept in list(following.simulated.conversation.followers):
        kept.queue.put_nowait(None)
    await following.until(lambda: not following.agent.is_announcing)
    before = following.asked("events")
    await following.seconds(60)
    assert following.asked("events") == before


async def test_a_window_that_lags_behind_a_fresh_read_does_not_replace_its_messages(following, monkeypatch):
    monkeypatch.setattr(following.agent, "_take", lambda _event: None)  # the events are late
    following.simulated.add_message("user", "my last words")
    assert await following.watcher.read_messages(5)
    assert following.windows[-1][-1] == "my last words"
    await following.seconds(8)
    assert following.windows[-1][-1] == "my last words"


class LateAgent(ScriptedAgent):
    """An agent that is gone at a poll, and announces that it works while the poll reads what it saved."""

    def __init__(self):
        super().__init__()
        self.saved_asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def saved_messages(self, *, keep):
        self.saved_asked.set()
        await self.go_on.wait()
        return ()


async def test_an_announcement_during_a_poll_is_newer_than_its_answer_and_comes_with_its_session(fake_clock):
    agent, statuses = LateAgent(), []
    watcher = Watcher(
        agent=agent, tracker=Tracker(5.0), clock=fake_clock.as_clock(), poll_interval_s=1.0, checkpoint_s=5.0,
        keep_messages=3,
    )  # fmt: skip
    watcher.status_changed.add(lambda change: statuses.append((change.new, watcher.sessions[0].is_live)))
    agent.turn(Activity.GONE)
    task = asyncio.create_task(watcher.run(), name="watcher")
    await agent.saved_asked.wait()
    agent.turn(Activity.BUSY)
    await fake_clock.settle()
    agent.go_on.set()
    await fake_clock.settle()
    task.cancel()
    await asyncio.wait({task})
    assert statuses == [(AgentStatus.RUNNING, True)]
