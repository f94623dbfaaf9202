"""Talks to coderd: the claim stream, the HTTP client, the session token, and their errors."""
