"""Keeps the conversation on disk while the agent runs, and delivers it."""
