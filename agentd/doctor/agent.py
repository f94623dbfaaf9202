"""The agent, as its own kind diagnoses it."""

from agentd.agents.agent import Agent
from agentd.doctor.finding import Finding, Level


async def examine(agent: Agent) -> list[Finding]:
    """One finding, named for the kind of the agent."""
    diagnosis = await agent.diagnose()
    return [Finding(agent.kind, Level(diagnosis.severity), diagnosis.cause, diagnosis.remedy)]
