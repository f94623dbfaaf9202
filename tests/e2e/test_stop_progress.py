"""`agentd stop` tells how far it is, on stderr; what scripts read from stdout stays the same."""


def steps(typed):
    return [line.split(" s ", 1)[1] for line in typed.err.splitlines() if line.startswith("agentd stop: ")]


async def test_stop_says_how_far_it_is_and_stdout_holds_the_receipt_alone(stage):
    daemon = await stage.start()
    stage.agent.add_message("agent", "bye")
    typed = await stage.type("stop", "--progress")
    assert typed.code == 0, typed
    assert steps(typed)[0] == "stopping"
    assert steps(typed)[1].startswith("captured 2 messages, ")
    assert steps(typed)[-2:] == ["delivering to coder", "delivered"]
    assert typed.out.startswith("delivered: 2 messages")
    assert await daemon.exit_code() == 0


async def test_while_coderd_fails_stop_says_so_as_it_happens(stage):
    daemon = await stage.start(AGENTD_SNAPSHOTS_UPLOAD="stop", AGENTD_SHUTDOWN_BUDGET_S="3")
    stage.agent.add_message("agent", "bye")
    stage.coderd.fail_next("log-snapshot", 503, b"upstream is away", times=10_000)
    typed = await stage.type("stop", "--progress", AGENTD_SHUTDOWN_BUDGET_S="3")
    assert typed.code == 75, typed
    assert any(step.startswith("coder: ") and step.endswith("; trying again") for step in steps(typed)), typed
    assert steps(typed)[-1] == "not delivered everywhere; kept in the spool"
    assert await daemon.exit_code() == 75


async def test_with_the_daemon_gone_there_is_progress_and_a_receipt_as_well(stage):
    stage.agent.add_message("agent", "nobody was watching")
    typed = await stage.type("stop", "--progress")
    assert typed.code == 0, typed
    assert [step.split()[0] for step in steps(typed)] == ["stopping", "captured", "delivering", "delivered"]
    assert typed.out.startswith("delivered: 2 messages")


async def test_unless_asked_nothing_but_the_receipt_is_said_to_a_pipe(stage):
    daemon = await stage.start()
    typed = await stage.type("stop")
    assert (typed.code, typed.err) == (0, "")
    assert await daemon.exit_code() == 0
