"""The messages of a conversation, their window, redaction, and the fit into 65,536 bytes. Pure."""
