"""The claim side against the simulated coderd."""

from agentd.simulator.coderd import SimulatedCoderd


async def test_a_claim_runs_its_hooks_once_and_a_replay_runs_nothing(hooks, start_side) -> None:
    hooks.add("10-a")
    hooks.add("20-b")
    async with SimulatedCoderd(ping_s=0.05) as coderd:
        ws = coderd.add_prebuild()
        async with start_side(coderd.url, ws.token) as side:
            await side.until("listening")
            await coderd.until(lambda: coderd.open_streams(ws) == 1)
            coderd.claim_start(ws)
            await coderd.claim_finish(ws)
            await side.until("settled")
            assert hooks.runs() == ["10-a 1", "20-b 1"]
            await coderd.drop_connections()
            await coderd.until(lambda: coderd.open_streams(ws) == 1)
            while side.listener.view().replays < 1:
                await __import__("asyncio").sleep(0.01)
        assert hooks.runs() == ["10-a 1", "20-b 1"]
