"""Observes coding agents: the protocol `Agent`, and one package for each kind of agent."""
