"""Observes Claude Code: its registry of live processes, and the transcripts of its sessions."""
