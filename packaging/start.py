"""What the launcher of the single file starts: `start.pyc FILE ARGUMENT…`, FILE being the single file itself."""

import contextlib
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "packages"))
# So that messages, and the unit `agentd install` writes, name the file a person can start again.
del sys.argv[0]
with contextlib.suppress(OSError):
    # The loader's name would stand in `ps` and `top`.
    Path("/proc/self/comm").write_text("agentd")

from agentd.__main__ import main  # noqa: E402 - found only now

sys.exit(main())
