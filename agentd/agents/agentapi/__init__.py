"""Agents behind an AgentAPI server, as a kind of agent."""
