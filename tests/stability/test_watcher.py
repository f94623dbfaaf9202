"""The watcher against a simulated AgentAPI; time is the test's."""

from structlog.testing import capture_logs

from agentd.stability.tracker import AgentStatus

UNKNOWN, RUNNING, WAITING, SETTLING, STABLE, UNREACHABLE = AgentStatus


async def test_a_quiet_agent_settles_and_its_messages_are_read_at_both_ends_of_the_period(bench):
    await bench.look(6)
    assert bench.states == [SETTLING, STABLE]
    assert str(bench.tracker.evidence) == "stable for 5.0 s, 6 samples, last message 2 unchanged"
    assert bench.windows == [["", "do it", "done"]] * 2
    assert bench.asked("status") == 6


async def test_while_nothing_changes_a_poll_is_one_small_request(bench):
    await bench.look(6)
    before = bench.asked("messages")
    await bench.look(50)
    assert bench.asked("messages") == before
    assert bench.asked("status") == 56
    assert bench.states == [SETTLING, STABLE]


async def test_a_turn_is_seen_from_its_first_poll_to_the_settled_answer(bench):
    await bench.look(12)
    bench.simulated.set_status("running")
    bench.simulated.add_message("user", "more")
    await bench.look()
    assert bench.states[-1] is RUNNING
    assert bench.windows[-1] == ["do it", "done", "more"], "leaving stable reads at once"
    bench.simulated.add_message("agent", "as you wish")
    bench.simulated.set_status("stable")
    await bench.look(6)
    assert bench.states == [SETTLING, STABLE, RUNNING, SETTLING, STABLE]
    assert bench.windows[-1] == ["done", "more", "as you wish"]


async def test_while_the_agent_runs_the_window_is_never_older_than_checkpoint_s(bench):
    bench.simulated.set_status("running")
    await bench.look()
    read_at = []
    for second in range(1, 31):
        bench.simulated.rewrite_last(f"screen {second}")
        before = len(bench.windows)
        await bench.look()
        if len(bench.windows) > before:
            read_at.append(second)
    assert read_at == list(range(4, 31, 4))
    assert bench.windows[-1][-1] == "screen 28"


async def test_an_answer_that_changes_between_two_stable_readings_is_not_settled(bench):
    await bench.look(5)
    bench.simulated.rewrite_last("done, and one thing more")
    await bench.look()
    assert bench.states == [SETTLING]
    assert bench.windows[-1][-1] == "done, and one thing more"
    await bench.look(5)
    assert bench.states == [SETTLING, STABLE]


async def test_a_hanging_status_is_running_and_messages_are_not_read(bench):
    await bench.look(6)
    bench.simulated.hang()
    before = bench.asked("messages")
    with bench.short_timeouts("status"):
        await bench.look(3)
    assert bench.states == [SETTLING, STABLE, RUNNING]
    assert "/status hangs while a message is being delivered" in str(bench.tracker.evidence)
    assert bench.asked("messages") == before
    bench.simulated.release()
    await bench.look(6)
    assert bench.states[-2:] == [SETTLING, STABLE]


async def test_messages_that_hang_during_the_comparison_mean_running(bench):
    await bench.look(5)
    bench.simulated.fault("no_headers", route="messages")
    with bench.short_timeouts("messages"):
        await bench.look()
    assert bench.states == [SETTLING, RUNNING]


async def test_an_agent_that_answers_nothing_at_all_is_busy_for_half_a_minute_and_then_unreachable(bench):
    for route in ("status", "openapi"):
        bench.simulated.fault("no_headers", route=route, times=100)
    with bench.short_timeouts("status"):
        await bench.look()
        assert bench.states == [RUNNING]
        assert "has not answered for" in str(bench.tracker.evidence)
        bench.clock.now += 30
        await bench.look()
    assert bench.states == [RUNNING, UNREACHABLE]
    assert "no other route has answered for" in str(bench.tracker.evidence)


async def test_a_stopped_agent_is_unreachable_at_once_and_a_restarted_one_settles_again(bench):
    await bench.look(6)
    await bench.simulated.stop()
    await bench.look(2)
    assert bench.states[2:] == [UNREACHABLE]
    assert "cannot connect" in str(bench.tracker.evidence)
    await bench.simulated.restart()
    await bench.look(6)
    assert bench.states[3:] == [SETTLING, STABLE]
    assert bench.windows[-1] == [""]


async def test_an_agent_that_is_not_there_yet_is_unreachable_and_is_found_when_it_comes(bench):
    await bench.simulated.stop()
    await bench.look(2)
    await bench.simulated.start()
    await bench.look()
    assert bench.states == [UNREACHABLE, SETTLING]
    assert bench.windows


async def test_two_unintelligible_answers_mean_unreachable_and_the_evidence_quotes_them(bench):
    bench.simulated.fault("html_502", route="status", times=2)
    await bench.look()
    assert bench.states == []
    await bench.look()
    assert bench.states == [UNREACHABLE]
    assert "502" in str(bench.tracker.evidence)


async def test_messages_that_cannot_be_read_do_not_hide_the_status_and_are_logged_once(bench):
    bench.simulated.fault("html", route="messages", times=2)
    bench.simulated.set_status("running")
    with capture_logs() as logs:
        await bench.look(3)
    assert bench.states == [RUNNING]
    events = [entry["event"] for entry in logs]
    assert events == ["agent.status", "agent.messages_unreadable", "agent.messages_readable"]


async def test_an_empty_list_changes_nothing(bench):
    bench.simulated.fault("null", route="messages", times=5)
    await bench.look(7)
    assert bench.windows == []
    assert bench.states == [SETTLING, STABLE]


async def test_a_status_change_is_logged_once_with_its_evidence(bench):
    with capture_logs() as logs:
        await bench.look(20)
        await bench.simulated.stop()
        await bench.look(20)
    assert [(entry["log_level"], entry["old"], entry["new"]) for entry in logs] == [
        ("info", "unknown", "settling"),
        ("info", "settling", "stable"),
        ("warning", "stable", "unreachable"),
    ]
    assert logs[1]["evidence"].startswith("stable for 5.0 s")


async def test_read_messages_reads_once_more_and_says_whether_it_could(bench):
    assert await bench.watcher.read_messages(1.0)
    assert bench.windows == [["", "do it", "done"]]
    bench.simulated.hang()
    assert not await bench.watcher.read_messages(0.05)
    bench.simulated.release()
    await bench.simulated.stop()
    assert not await bench.watcher.read_messages(1.0)
    assert len(bench.windows) == 1


async def test_run_polls_at_the_interval_and_less_often_when_long_stable(bench):
    async with bench.running():
        pauses = await bench.rounds(40)
    assert set(pauses[:30]) == {1.0}
    assert set(pauses[31:]) == {2.0}


async def test_run_polls_at_the_interval_again_after_a_change(bench):
    async with bench.running():
        await bench.rounds(35)
        bench.simulated.set_status("running")
        pauses = await bench.rounds(3)
    assert pauses == [2.0, 1.0, 1.0]
    assert bench.states[-1] is RUNNING


async def test_read_messages_works_beside_run(bench):
    async with bench.running():
        await bench.rounds(1)
        assert await bench.watcher.read_messages(1.0)


async def test_a_turn_of_two_seconds_is_never_missed_however_long_it_was_stable(bench):
    async with bench.running():
        await bench.rounds(60)
        for _ in range(10):
            bench.simulated.set_status("running")
            await bench.rounds(1)
            await bench.rounds(1)
            bench.simulated.set_status("stable")
            await bench.rounds(45)
    assert bench.states.count(RUNNING) == 10


async def test_a_very_large_history_is_not_read_all_the_time(bench, monkeypatch):
    slow = bench.agent.messages

    async def slowly(**options):
        await bench.clock.advance(2.0)
        return await slow(**options)

    monkeypatch.setattr(bench.agent, "messages", slowly)
    bench.simulated.set_status("running")
    before = bench.clock.now
    await bench.look(60)
    assert len(bench.windows) * 2.0 <= 0.12 * (bench.clock.now - before)
