"""The progress of `agentd stop` on stderr. Scripts read stdout, which does not change."""


def steps(result):
    return [line.split(" s ", 1)[1] for line in result.err.splitlines() if line.startswith("agentd stop: ")]


async def test_stop_prints_progress_on_stderr_and_only_the_receipt_on_stdout(testbed):
    daemon = await testbed.start()
    testbed.agent.add_message("agent", "bye")
    result = await testbed.run("stop", "--progress")
    assert result.code == 0, result
    assert steps(result)[0] == "stopping"
    assert steps(result)[1].startswith("captured 2 messages, ")
    assert steps(result)[-2:] == ["delivering to coder", "delivered"]
    assert result.out.startswith("delivered: 2 messages")
    assert await daemon.exit_code() == 0


async def test_stop_prints_each_failure_of_coderd_when_it_happens(testbed):
    daemon = await testbed.start(AGENTD_SNAPSHOTS_UPLOAD="stop", AGENTD_SHUTDOWN_BUDGET_S="3")
    testbed.agent.add_message("agent", "bye")
    testbed.coderd.fail_next("log-snapshot", 503, b"upstream is away", times=10_000)
    result = await testbed.run("stop", "--progress", AGENTD_SHUTDOWN_BUDGET_S="3")
    assert result.code == 75, result
    assert any(step.startswith("coder: ") and step.endswith("; trying again") for step in steps(result)), (
        result
    )
    assert steps(result)[-1] == "not delivered everywhere; kept in the spool"
    assert await daemon.exit_code() == 75


async def test_stop_without_a_daemon_prints_progress_and_a_receipt(testbed):
    testbed.agent.add_message("agent", "before any daemon ran")
    result = await testbed.run("stop", "--progress")
    assert result.code == 0, result
    assert [step.split()[0] for step in steps(result)] == ["stopping", "captured", "delivering", "delivered"]
    assert result.out.startswith("delivered: 2 messages")


async def test_stop_without_the_option_prints_only_the_receipt_to_a_pipe(testbed):
    daemon = await testbed.start()
    result = await testbed.run("stop")
    assert (result.code, result.err) == (0, "")
    assert await daemon.exit_code() == 0
