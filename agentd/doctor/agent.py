"""AgentAPI: does it answer, is it AgentAPI, does it take our Host header."""

from agentd.agents.agentapi.client import AgentApi, AgentBroken, AgentBusy, AgentGone, HostRefused
from agentd.doctor.finding import Finding, fail, ok, warn


async def examine(agent: AgentApi) -> list[Finding]:
    """One finding. Takes 3.5 s at most: `/status` and then whether anything answers at all."""
    try:
        reading = await agent.status()
    except AgentBusy:
        if await agent.alive():
            return [
                warn("agentapi", "is up and busy: a message is being delivered", "nothing; ask again later")
            ]
        return [
            fail(
                "agentapi",
                f"what listens at {agent.url} does not answer",
                "restart AgentAPI; check agentapi.url (AGENTD_AGENTAPI_URL)",
            )
        ]
    except AgentGone as error:
        return [
            fail(
                "agentapi",
                f"nobody answers at {agent.url}: {error.message}",
                "start the agent (agentapi server …), or set agentapi.url (AGENTD_AGENTAPI_URL) to where it listens",
            )
        ]
    except HostRefused as error:
        return [
            fail(
                "agentapi",
                f"AgentAPI refuses our Host header: {error.message}",
                "start it with AGENTAPI_ALLOWED_HOSTS that include localhost, or use an allowed name in agentapi.url",
            )
        ]
    except AgentBroken as error:
        return [
            fail(
                "agentapi",
                f"the port is taken by something else: {error.message}",
                f"free the port of {agent.url} or set agentapi.url (AGENTD_AGENTAPI_URL) to AgentAPI's own",
            )
        ]
    kind = f"{reading.agent_type or 'agent'} is {reading.status}"
    return [ok("agentapi", f"answers at {agent.url}: {kind}")]
