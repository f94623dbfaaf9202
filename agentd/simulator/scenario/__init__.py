"""Scenarios: test scripts in TOML, run with the real daemon between the simulated peers. Format: docs/scenarios.md."""
