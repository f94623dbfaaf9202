"""Receives the claims of the workspace and runs the hooks of each until they succeed."""
