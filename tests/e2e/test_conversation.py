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


async def talked(stage, *said):
    daemon = await stage.start()
    for role, content in said:
        stage.agent.add_message(role, content)
    await daemon.log("snapshot.spooled", where=lambda line: line["messages"] > len(said))
    return daemon


async def test_while_the_agent_answers_the_conversation_is_live(stage):
    daemon = await talked(stage, ("user", "hello"), ("agent", "hi"))
    status, answer = await read(daemon)
    assert (status, answer["snapshot"], "snapshot_at" in answer) == (200, False, False)
    assert answer["messages"] == stage.agent.conversation.messages


async def test_with_the_agent_gone_it_is_what_was_kept_and_when(stage):
    daemon = await talked(stage, ("user", "hello"), ("agent", "my last words"))
    await stage.agent.stop()
    await daemon.status_until(lambda s: s["task"]["status"] == "paused", what="paused")
    status, answer = await read(daemon)
    assert (status, answer["snapshot"]) == (200, True)
    assert contents(answer) == ["", "hello", "my last words"]
    assert answer["snapshot_at"].startswith("20")


async def test_before_the_agent_ever_answered_it_is_what_an_earlier_run_kept(stage):
    await (await talked(stage, ("agent", "yesterday"))).kill()
    await stage.agent.stop()
    daemon = await stage.start()
    status, answer = await read(daemon)
    assert (status, answer["snapshot"], contents(answer)[-1]) == (200, True, "yesterday")


async def test_without_agent_and_snapshot_it_is_an_empty_snapshot(stage):
    await stage.agent.stop()
    status, answer = await read(await stage.start())
    assert (status, answer) == (200, {"messages": [], "snapshot": True, "snapshot_at": None})


async def test_while_a_message_is_being_delivered_it_is_what_was_kept(stage):
    daemon = await talked(stage, ("user", "hello"), ("agent", "working on it"))
    stage.agent.hang()
    status, answer = await read(daemon)
    assert (status, answer["snapshot"], contents(answer)[-1]) == (200, True, "working on it")
    stage.agent.release()


async def test_in_an_error_state_it_is_coderds_409(stage):
    daemon = await talked(stage, ("agent", "hi"))
    stage.agent.fault("html", times=10_000)
    await daemon.status_until(lambda s: s["task"]["status"] == "error", what="error")
    assert await read(daemon) == (
        409,
        {"message": "Cannot fetch logs for task in current state.", "detail": 'Task status is "error".'},
    )


async def test_what_was_kept_can_be_read_from_the_disk_beside_the_daemon_and_after_its_death(stage):
    daemon = await talked(stage, ("user", "hello"), ("agent", "my last words"))
    beside = await stage.type("snapshot", "fetch", "--last")
    await daemon.kill()
    after = await stage.type("snapshot", "fetch", "--last")
    assert (beside.code, after.code) == (0, 0)
    assert beside.out == after.out
    assert after.out.endswith("  my last words\n")
