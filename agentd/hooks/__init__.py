"""Finds hook programs, runs them, and ends what they leave running."""
