"""Kill the claim side at every write, start and exit, over and over, and look whether its promise held.

Run as a script: `claims_driver.py DIRECTORY SEED COUNT` prints one JSON line per story. A story is one claim with three
hooks, a number of lives that each end by SIGKILL at a chosen moment, and one life that is left alone. Lives are forks
of this process, so that five hundred of them take seconds; nothing of asyncio has run here before a fork.
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
from agentd.claims.hook_runner import HookPolicy, HookRunner
from agentd.claims.ledger import Ledger
from agentd.clock import Clock
from agentd.hooks import run
from agentd.metrics import Registry

EVENT = ClaimEvent(
    "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222", "prebuild_claimed"
)
NAMES = ("10-a", "20-b", "30-c")
# What a hook does between saying that it starts and that it is done; `$AGENTD_ATTEMPT` counts.
BODIES = {
    "quick": "",
    "slow": "sleep 0.02",
    "fails once": '[ "$AGENTD_ATTEMPT" -gt 1 ] || exit 1',
    "has children": "(sleep 0.02; say late) & (setsid sleep 0.02) & wait",
    "always fails": "exit 7",
}


class Executioner:
    """Counts the moments at which a daemon can die, and dies at the chosen one. Tears the write if that is one."""

    def __init__(self, at: int | None, rng: random.Random) -> None:
        self.seen = 0
        self._at = at
        self._rng = rng

    def due(self) -> bool:
        self.seen += 1
        return self.seen == self._at

    def moment(self) -> None:
        if self.due():
            die()

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.moment()
            result = call(*args, **kwargs)
            self.moment()
            return result

        return wrapped

    def tearing(self, pwrite: Callable[..., int]) -> Callable[..., int]:
        def wrapped(fd: int, data: bytes, offset: int) -> int:
            self.moment()
            if self.due():
                pwrite(fd, data[: self._rng.randrange(len(data))], offset)
                die()
            return pwrite(fd, data, offset)

        return wrapped


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def briskly(seconds: float) -> None:
    # Pauses are short here; a hook's timeout stays what it is.
    await asyncio.sleep(seconds if seconds >= 20 else min(seconds, 0.004))


async def live(root: Path, executioner: Executioner, *, redeliver: bool, on_interrupted: Any) -> None:
    """One life of the claim side: take up what is unfinished, take the event, act."""
    for name in ("fdatasync", "fsync", "ftruncate", "link"):
        setattr(ledger_file.os, name, executioner.around(getattr(os, name)))
    ledger_file.os.pwrite = executioner.tearing(os.pwrite)
    run._ended = executioner.around(run._ended)
    runner_module.listing = executioner.around(runner_module.listing)
    spawn = asyncio.create_subprocess_exec

    async def spawning(*args: Any, **kwargs: Any) -> Any:
        executioner.moment()
        child = await spawn(*args, **kwargs)
        executioner.moment()
        return child

    asyncio.create_subprocess_exec = spawning  # type: ignore[assignment]  # the point of the exercise
    ledger = Ledger(root / "state", workspace_id=EVENT.workspace_id)
    ledger.token_fingerprint = "token-one"
    hook_runner = HookRunner(
        ledger=ledger,
        policy=HookPolicy(root / "hooks", root / "state", on_interrupted=on_interrupted, grace_s=0.3),
        clock=Clock(sleep=briskly),
        metrics=Registry(),
        environ={"PATH": "/usr/bin:/bin"},
    )
    if redeliver or not ledger.all_claims():
        ledger.admit(EVENT)
    for claim in ledger.unfinished():
        await hook_runner.run_claim(claim.id)
    executioner.moment()


def one_life(root: Path, at: int | None, rng: random.Random, **options: Any) -> tuple[bool, int]:
    """Fork a life. Returns whether it was killed as planned, and how many moments it saw if it was not."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        executioner = Executioner(at, rng)
        try:
            asyncio.run(live(root, executioner, **options))
            os.write(writing, str(executioner.seen).encode())
            os._exit(0)
        except BaseException as exc:  # noqa: BLE001 - a fork must not return into the driver's loop
            os.write(2, f"{type(exc).__name__}: {exc}\n".encode())
            os._exit(1)
    os.close(writing)
    _, status = os.waitpid(pid, 0)
    seen = os.read(reading, 32)
    os.close(reading)
    if os.WIFSIGNALED(status):
        return True, 0
    if os.WEXITSTATUS(status):
        raise SystemExit("a life ended in an error")
    return False, int(seen)


def prepare(root: Path, bodies: list[str]) -> None:
    (root / "hooks" / "on-claim.d").mkdir(parents=True)
    (root / "state").mkdir(mode=0o700)
    for name, body in zip(NAMES, bodies, strict=True):
        path = root / "hooks" / "on-claim.d" / name
        path.write_text(
            f'#!/bin/sh\nsay() {{ echo "{name} $AGENTD_ATTEMPT $1" >> {root}/trace; }}\n'
            f"say start\n{BODIES[body]}\nsay done\n"
        )
        path.chmod(0o755)


def verdict(root: Path, *, hold: bool, bodies: list[str]) -> list[str]:
    """What went wrong, in words; empty when every promise held."""
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
            wrong.append(f"{hook.name} is still said to run")
    for number, name in enumerate(NAMES[1:], 1):
        first = next((i for i, line in enumerate(trace) if line[0] == name), None)
        before = [i for i, line in enumerate(trace) if line[0] == NAMES[number - 1]]
        if first is not None and (not before or before[-1] > first):
            wrong.append(f"{name} did not wait for {NAMES[number - 1]}")
    return wrong


def story(root: Path, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    bodies = [rng.choice(["quick", "quick", "slow", "has children", "fails once"]) for _ in NAMES]
    if rng.random() < 0.15:
        bodies[rng.randrange(3)] = "always fails"
    hold = rng.random() < 0.15
    prepare(root, bodies)
    killed, at = 0, 1 + seed % 75
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        dead, seen = one_life(
            root, at, rng, redeliver=rng.random() < 0.5, on_interrupted="hold" if hold else "retry"
        )
        killed += dead
        at = rng.randrange(1, 60) if dead else rng.randrange(1, max(2, seen))
    one_life(root, None, rng, redeliver=True, on_interrupted="hold" if hold else "retry")
    return {
        "seed": seed,
        "killed": killed,
        "bodies": bodies,
        "wrong": verdict(root, hold=hold, bodies=bodies),
    }


def main(directory: str, seed: str, count: str) -> None:
    log.configure(level="error", stream=open(os.devnull, "w"))  # noqa: SIM115, PTH123 - for the life of the script
    for number in range(int(seed), int(seed) + int(count)):
        root = Path(directory) / str(number)
        root.mkdir()
        print(json.dumps(story(root, number)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
