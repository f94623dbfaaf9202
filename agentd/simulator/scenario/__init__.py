"""Scenarios: test scripts in TOML (docs/scenarios.md), run with the real daemon and simulated peers."""
