"""The local API of the daemon: HTTP on a unix socket, and on loopback TCP if configured."""
