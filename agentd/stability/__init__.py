"""Knows whether the agent is busy, idle or waiting, and reports the state of the task to coderd."""
