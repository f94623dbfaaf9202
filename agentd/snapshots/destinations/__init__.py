"""Destinations of snapshots: coderd, an object store, an HTTP server, a directory, a program.

`by_url` has all destinations except coderd. It is imported only if a URL is configured.
"""
