"""Reading the conversation over the local API, with the real daemon."""

import aiohttp


async def read(daemon):
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(daemon.socket))) as session,
        session.get("http://agentd/v1/messages") as response,
    ):
        return response.status, await response.json()


def contents(answer):
    return [message["content"] for message in answer["messages"]]


async def start_with_messages(testbed, *messages):
    daemon = await testbed.start()
    for role, content in messages:
        testbed.agent.add_message(role, content)
    await daemon.log("snapshot.spooled", where=lambda line: line["messages"] > len(messages))
    return daemon


async def test_while_the_agent_answers_the_messages_are_live(testbed):
    daemon = await start_with_messages(testbed, ("user", "hello"), ("agent", "hi"))
    status, answer = await read(daemon)
    assert (status, answer["snapshot"], "snapshot_at" in answer) == (200, False, False)
    assert answer["messages"] == testbed.agent.conversation.messages


async def test_with_the_agent_gone_the_messages_are_the_snapshot_with_its_time(testbed):
    daemon = await start_with_messages(testbed, ("user", "hello"), ("agent", "my last words"))
    await testbed.agent.stop()
    await daemon.status_until(lambda s: s["task"]["status"] == "paused", what="paused")
    status, answer = await read(daemon)
    assert (status, answer["snapshot"]) == (200, True)
    assert contents(answer) == ["", "hello", "my last words"]
    assert answer["snapshot_at"].startswith("20")


async def test_before_the_agent_answers_the_messages_are_the_snapshot_of_an_earlier_run(testbed):
    await (await start_with_messages(testbed, ("agent", "yesterday"))).kill()
    await testbed.agent.stop()
    daemon = await testbed.start()
    status, answer = await read(daemon)
    assert (status, answer["snapshot"], contents(answer)[-1]) == (200, True, "yesterday")


async def test_without_agent_and_snapshot_the_messages_are_empty(testbed):
    await testbed.agent.stop()
    status, answer = await read(await testbed.start())
    assert (status, answer) == (200, {"messages": [], "snapshot": True, "snapshot_at": None})


async def test_while_the_agent_hangs_the_messages_are_the_snapshot(testbed):
    daemon = await start_with_messages(testbed, ("user", "hello"), ("agent", "working on it"))
    testbed.agent.hang()
    status, answer = await read(daemon)
    assert (status, answer["snapshot"], contents(answer)[-1]) == (200, True, "working on it")
    testbed.agent.release()


async def test_in_an_error_state_the_answer_is_409_as_coderds(testbed):
    daemon = await start_with_messages(testbed, ("agent", "hi"))
    testbed.agent.fault("html", times=10_000)
    await daemon.status_until(lambda s: s["task"]["status"] == "error", what="error")
    assert await read(daemon) == (
        409,
        {"message": "Cannot fetch logs for task in current state.", "detail": 'Task status is "error".'},
    )


async def test_the_snapshot_can_be_read_from_the_disk_while_the_daemon_runs_and_after_a_kill(testbed):
    daemon = await start_with_messages(testbed, ("user", "hello"), ("agent", "my last words"))
    beside = await testbed.run("snapshot", "fetch", "--last")
    await daemon.kill()
    after = await testbed.run("snapshot", "fetch", "--last")
    assert (beside.code, after.code) == (0, 0)
    assert beside.out == after.out
    assert after.out.endswith("  my last words\n")
