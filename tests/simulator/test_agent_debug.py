import json

from agentd.simulator.agent_debug import SimulatedAgentDebug
from agentd.simulator.coderd import SimulatedCoderd


async def test_the_manifest_shows_a_claim_after_the_next_fetch(ask):
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_prebuild(apps=("claude-code",))
        async with SimulatedAgentDebug(ws, owner_name="ada") as debug:

            async def manifest():
                return json.loads((await ask("GET", debug.url + "/debug/manifest")).body)

            before = await manifest()
            assert (before["workspace_id"], before["owner_name"]) == (ws.id, "prebuilds")
            assert before["apps"] == [{"slug": "claude-code"}]
            coderd.claim_start(ws)
            await coderd.claim_finish(ws)
            assert (await manifest())["owner_name"] == "prebuilds"
            debug.fetch_manifest()
            assert (await manifest())["owner_name"] == "ada"
            assert (await ask("GET", debug.url + "/debug/nope")).status == 404
            assert [entry.route for entry in debug.requests] == ["manifest"] * 3 + ["other"]
