"""A simulated coderd and a simulated AgentAPI, which answer like the real ones and inject faults on request.

`coderd` and `agentapi` are the two peers of the daemon; `metadata` is the cloud's metadata service.
`agentd simulate` and `agentd demo` run them, and so do the tests. No module imports the daemon: a server that
shared its client's parser would share the parser's faults.
"""
