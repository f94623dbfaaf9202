"""The kinds of agents that the code has."""

import re

from drawing.source import Source

_SOURCE = Source()

# Package in agentd/agents → its `kind`.
KINDS = {
    name.split(".")[1]: re.search(r'^ {4}kind = "([\w-]+)"', _SOURCE.text(name), re.MULTILINE)[1]
    for name in _SOURCE.paths
    if re.fullmatch(r"agents\.\w+\.agent", name)
}
