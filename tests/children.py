"""The environment of child processes."""

import os


def environ_without_coverage() -> dict[str, str]:
    """This process's environment, with which a child does not measure coverage.

    For a child that runs no code of agentd, or forks and kills processes: its measurement costs time and is lost.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS_")}
