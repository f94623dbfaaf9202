"""Runs the property tests with a new random seed each round: `python tests/fuzz.py SECONDS`.

Exits with pytest's code at the first round that fails. Each round prints its seed and the command that repeats it.
"""

import secrets
import shlex
import subprocess
import sys
import time


def main(seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while (left_s := deadline - time.monotonic()) > 0:
        seed = secrets.randbelow(2**32)
        options = (
            f"-m 'property and not long' --hypothesis-profile=fuzz --hypothesis-seed={seed} --seed={seed}"
        )
        command = [sys.executable, "-m", "pytest", *shlex.split(options)]
        print(f"fuzz: seed {seed}; to repeat this round: {shlex.join(command)}", flush=True)
        code = subprocess.run(
            [*command, "--quiet", "--maxfail=1", "--numprocesses=auto", f"--skip-after={left_s:.0f}"],
            check=False,
        ).returncode
        if code:
            print(f"fuzz: failed with seed {seed}; to repeat: {shlex.join(command)}", flush=True)
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
