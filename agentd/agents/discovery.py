"""Chooses the agent of this workspace and builds it. The only module that knows every kind of agent."""

from agentd.agents.agent import Agent
from agentd.agents.agentapi.agent import AgentApiAgent
from agentd.agents.agentapi.client import AgentApiClient
from agentd.clock import Clock
from agentd.config import Config
from agentd.tls import aiohttp, client_context


def agent_of(config: Config, *, session: aiohttp.ClientSession, clock: Clock) -> Agent:
    """The agent that `config` describes. Raises `ConfigError` for an unreadable CA file."""
    client = AgentApiClient(config.agentapi.url, session=session, tls=client_context(config.agentapi.url))
    return AgentApiAgent(
        client,
        keep=config.snapshots.max_messages,
        clock=clock,
        state_file=config.agentapi.state_file,
        pid_file=config.agentapi.pid_file,
    )
