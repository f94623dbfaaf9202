"""Makes each claim of the workspace act once: event stream, ledger, hooks."""
