"""Started by the launcher of the single file as `start.pyc FILE ARGUMENT…`; FILE is the single file."""

import contextlib
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "packages"))
# Messages, and the unit that `agentd install` writes, must name the single file, which is now argv[0].
del sys.argv[0]
with contextlib.suppress(OSError):
    # Otherwise `ps` and `top` show the name of the loader.
    Path("/proc/self/comm").write_text("agentd")

from agentd.__main__ import main  # noqa: E402 - needs the path above

sys.exit(main())
