"""coderd's routes."""
