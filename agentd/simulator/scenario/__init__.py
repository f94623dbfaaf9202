"""Scenarios: a story about agentd in a TOML file, played with the real daemon between the simulated peers."""
