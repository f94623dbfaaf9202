"""Kills the claim side with SIGKILL at every write, hook start and hook exit, and checks what it guarantees.

Run as a script: `claims_driver.py DIRECTORY SEED...` prints one JSON line per seed. Each seed makes one case:
a claim with three hooks, some processes that SIGKILL ends at a chosen point, and a last process that is not
killed. The processes are forks of the script, so that a case takes a tenth of a second; asyncio does not run
in the script before a fork.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentd import log
from agentd.claims import hook_runner as runner_module
from agentd.claims import ledger_file
from agentd.claims.events import ClaimEvent
from agentd.claims.hook_runner import HookRunner
from agentd.claims.ledger import Ledger
from agentd.clock import Clock
from agentd.hooks import run
from agentd.hooks.run import HookPolicy
from agentd.metrics import Registry

EVENT = ClaimEvent(
    "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222", "prebuild_claimed"
)
NAMES = ("10-a", "20-b", "30-c")
# What a hook runs between the lines `start` and `done` that it writes to the trace.
BODIES = {
    "quick": "",
    "slow": "sleep 0.02",
    "fails once": '[ "$AGENTD_ATTEMPT" -gt 1 ] || exit 1',
    "has children": "(sleep 0.02; trace late) & (setsid sleep 0.02) & wait",
    "always fails": "exit 7",
}


class KillPoints:
    """Counts the points at which the process can die, and kills it at the chosen one. Tears a write there."""

    def __init__(self, at: int | None, rng: random.Random) -> None:
        self.passed = 0
        self._at = at
        self._rng = rng

    def due(self) -> bool:
        self.passed += 1
        return self.passed == self._at

    def point(self) -> None:
        if self.due():
            die()

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.point()
            result = call(*args, **kwargs)
            self.point()
            return result

        return wrapped

    def tearing(self, pwrite: Callable[..., int]) -> Callable[..., int]:
        def wrapped(fd: int, data: bytes, offset: int) -> int:
            self.point()
            # The kernel takes the mark over whole: it is 49 bytes in one page.
            if data.startswith(b'{"crc":') and self.due():
                pwrite(fd, data[: self._rng.randrange(len(data))], offset)
                die()
            return pwrite(fd, data, offset)

        return wrapped


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def short_sleep(seconds: float) -> None:
    # Pauses are shortened. A hook's timeout is not.
    await asyncio.sleep(seconds if seconds >= 20 else min(seconds, 0.004))


async def run_claims(root: Path, kills: KillPoints, *, redeliver: bool, on_interrupted: Any) -> None:
    """Run the claim side once: load the ledger, admit the event, run the hooks of unfinished claims."""
    for name in ("fdatasync", "fsync", "ftruncate", "link"):
        setattr(ledger_file.os, name, kills.around(getattr(os, name)))
    ledger_file.os.pwrite = kills.tearing(os.pwrite)
    run.HookRun._result = kills.around(run.HookRun._result)
    runner_module.list_hooks = kills.around(runner_module.list_hooks)
    spawn = asyncio.create_subprocess_exec

    async def spawning(*args: Any, **kwargs: Any) -> Any:
        kills.point()
        child = await spawn(*args, **kwargs)
        kills.point()
        return child

    asyncio.create_subprocess_exec = spawning  # type: ignore[assignment]  # adds kill points
    ledger = Ledger(root / "state", workspace_id=EVENT.workspace_id)
    append = ledger._file.append

    def noting(*args: Any, **fields: Any) -> Any:
        state = append(*args, **fields)
        # From here on agentd may act on the record.
        (root / "acted").write_text(str(ledger._file._last.seq))
        return state

    ledger._file.append = noting
    ledger.token_fingerprint = "token-one"
    hook_runner = HookRunner(
        ledger=ledger,
        policy=HookPolicy(root / "hooks", root / "state", {"PATH": "/usr/bin:/bin"}, grace_s=0.3),
        clock=Clock(sleep=short_sleep),
        metrics=Registry(),
        on_interrupted=on_interrupted,
    )
    if redeliver or not ledger.all_claims():
        ledger.admit(EVENT)
    for claim in ledger.unfinished():
        await hook_runner.run_claim(claim.id)
    kills.point()


def fork_once(root: Path, at: int | None, rng: random.Random, **options: Any) -> tuple[bool, int]:
    """Fork a process that runs the claim side.

    Returns whether it was killed at point `at`, and if not, how many points it passed.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        kills = KillPoints(at, rng)
        try:
            asyncio.run(run_claims(root, kills, **options))
            os.write(writing, str(kills.passed).encode())
            os._exit(0)
        except BaseException as exc:  # noqa: BLE001 - a fork must not return into the script's loop
            os.write(2, f"{type(exc).__name__}: {exc}\n".encode())
            os._exit(1)
    os.close(writing)
    _, status = os.waitpid(pid, 0)
    passed = os.read(reading, 32)
    os.close(reading)
    if os.WIFSIGNALED(status):
        return True, 0
    if os.WEXITSTATUS(status):
        raise SystemExit("a process ended with an error")
    return False, int(passed)


def prepare(root: Path, bodies: list[str]) -> None:
    (root / "hooks" / "on-claim.d").mkdir(parents=True)
    (root / "state").mkdir(mode=0o700)
    for name, body in zip(NAMES, bodies, strict=True):
        path = root / "hooks" / "on-claim.d" / name
        path.write_text(
            f'#!/bin/sh\ntrace() {{ echo "{name} $AGENTD_ATTEMPT $1" >> {root}/trace; }}\n'
            f"trace start\n{BODIES[body]}\ntrace done\n"
        )
        path.chmod(0o755)


def violations(root: Path, *, hold: bool, bodies: list[str]) -> list[str]:
    """Return a text for each guarantee that does not hold."""
    wrong = []
    trace = (
        [line.split() for line in (root / "trace").read_text().splitlines()]
        if (root / "trace").exists()
        else []
    )
    book = Ledger.read(root / "state")
    if book.damage:
        wrong.append(f"the ledger counts as damaged: {book.damage}")
    if len(book.claims) != 1:
        return [*wrong, f"{len(book.claims)} claims in the ledger"]
    [claim] = book.claims.values()
    failing = "always fails" in bodies
    expected = {"failed"} if failing else {"done"}
    if claim.state not in expected | ({"held"} if hold else set()):
        wrong.append(f"the claim is {claim.state}")
    starts = Counter((name, attempt) for name, attempt, what in trace if what == "start")
    wrong += [f"{name} attempt {attempt} started {n} times" for (name, attempt), n in starts.items() if n > 1]
    latest: dict[str, int] = {}
    for name, attempt, what in trace:
        if what == "start" and int(attempt) <= latest.get(name, 0):
            wrong.append(f"{name} went back to attempt {attempt}")
        if int(attempt) < latest.get(name, 0):
            wrong.append(f"{name} attempt {attempt} still ran beside attempt {latest[name]}")
        latest[name] = max(latest.get(name, 0), int(attempt))
    for hook in claim.hooks:
        done = [int(attempt) for name, attempt, what in trace if (name, what) == (hook.name, "done")]
        if hook.state == "succeeded" and (
            not done or done[-1] != hook.attempt or latest[hook.name] != hook.attempt
        ):
            wrong.append(
                f"{hook.name} succeeded at attempt {hook.attempt}, but ran {latest.get(hook.name)}, done {done}"
            )
        if hook.state == "started":
            wrong.append(f"{hook.name} is still recorded as started")
    for number, name in enumerate(NAMES[1:], 1):
        first = next((i for i, line in enumerate(trace) if line[0] == name), None)
        before = [i for i, line in enumerate(trace) if line[0] == NAMES[number - 1]]
        if first is not None and (not before or before[-1] > first):
            wrong.append(f"{name} did not wait for {NAMES[number - 1]}")
    return wrong


def unnoticed_losses(root: Path) -> list[str]:
    """Lose whole records at the end of the ledger, each that agentd has acted on, and see whether that is noticed."""
    path = root / "state" / ledger_file.LEDGER_NAME
    acted = int((root / "acted").read_text()) if (root / "acted").exists() else 0
    wrong = []
    if Ledger.read(root / "state").damage:
        wrong.append("after a kill the ledger counts as damaged")
    if not path.exists():
        return [*wrong, *(["the ledger is gone"] if acted else [])]
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in range(min(acted, len(lines))):
        path.write_bytes(b"".join(lines[:kept]))
        if not Ledger.read(root / "state").damage:
            wrong.append(f"{kept} of {acted} records are left, which is not noticed")
    if acted:
        path.unlink()
        if not Ledger.read(root / "state").damage:
            wrong.append("the ledger was removed, which is not noticed")
    path.write_bytes(whole)
    return wrong


def run_case(root: Path, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    bodies = [rng.choice(["quick", "quick", "slow", "has children", "fails once"]) for _ in NAMES]
    if rng.random() < 0.15:
        bodies[rng.randrange(3)] = "always fails"
    hold = rng.random() < 0.15
    prepare(root, bodies)
    if seed % 4 == 0:
        ledger_file.COMPACT_BYTES = 500  # in the forks of this case
    killed, at = 0, 1 + seed % 97
    wrong = []
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        dead, passed = fork_once(
            root, at, rng, redeliver=rng.random() < 0.5, on_interrupted="hold" if hold else "retry"
        )
        killed += dead
        wrong += unnoticed_losses(root)
        at = rng.randrange(1, 60) if dead else rng.randrange(1, max(2, passed))
    fork_once(root, None, rng, redeliver=True, on_interrupted="hold" if hold else "retry")
    wrong += unnoticed_losses(root)
    ledger_file.COMPACT_BYTES = 1 << 20
    return {
        "seed": seed,
        "killed": killed,
        "bodies": bodies,
        "wrong": wrong + violations(root, hold=hold, bodies=bodies),
    }


def main(directory: str, *seeds: str) -> None:
    log.configure(level="error", stream=open(os.devnull, "w"))  # noqa: SIM115, PTH123 - open until the script ends
    for seed in seeds:
        root = Path(directory) / seed
        root.mkdir()
        print(json.dumps(run_case(root, int(seed))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
