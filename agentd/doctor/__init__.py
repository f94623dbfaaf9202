"""The checks of `agentd doctor`, and the debug bundle."""
