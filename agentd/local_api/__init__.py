"""Serves the local API on a unix socket and, if configured, on a loopback TCP port."""
