"""A coderd and an AgentAPI that behave like the real ones, with faults on demand.

`coderd` and `agentapi` are the two peers, `metadata` the cloud around them. `agentd simulate` and `agentd demo` run
them for a person; the tests of every room drive them by code. Nothing here knows the daemon: a server that shared
its client's parser would share its mistakes.
"""
