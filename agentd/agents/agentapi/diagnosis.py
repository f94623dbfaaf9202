"""What `agentd doctor` says of AgentAPI."""

from agentd.agents.agent import AgentBrokenError, AgentBusyError, AgentGoneError, Diagnosis
from agentd.agents.agentapi.client import AgentApiClient, HostRefusedError


async def diagnose(client: AgentApiClient) -> Diagnosis:
    """Whether it answers, is AgentAPI, and accepts the Host header: asks `/status`, then any other route; 3.5 s at most."""
    try:
        reading = await client.status()
        return Diagnosis(
            "ok", f"answers at {client.url}: {reading.agent_type or 'agent'} is {reading.status}"
        )
    except AgentBusyError:
        if await client.is_up():
            return Diagnosis(
                "warn",
                "AgentAPI is running; /status does not answer while it delivers a message",
                "nothing; run `agentd doctor` again later",
            )
        cause = f"{client.url} accepts connections and does not answer"
        remedy = "restart AgentAPI; check agentapi.url (AGENTD_AGENTAPI_URL)"
    except AgentGoneError as exc:
        cause = f"AgentAPI does not answer at {client.url}: {exc.message}"
        remedy = (
            "start the agent (agentapi server …), or set agentapi.url (AGENTD_AGENTAPI_URL) to its address"
        )
    except HostRefusedError as exc:
        cause = f"AgentAPI refuses the Host header: {exc.message}"
        remedy = "start it with AGENTAPI_ALLOWED_HOSTS that include localhost, or use an allowed name in agentapi.url"
    except AgentBrokenError as exc:
        cause = f"another program answers at {client.url}: {exc.message}"
        remedy = "free the port, or set agentapi.url (AGENTD_AGENTAPI_URL) to the address of AgentAPI"
    return Diagnosis("fail", cause, remedy)
