"""Codex CLI: observed by its rollouts, its writer locks and the control socket of its daemon."""
