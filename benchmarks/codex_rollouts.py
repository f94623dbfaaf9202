"""Measure what the rollouts of Codex cost: opening a file of 1 GB, a poll without a change, a file that grows by 2 MB/s.

    .venv/bin/python benchmarks/codex_rollouts.py

The lines are those of Codex 0.169.0: tool results of 2 to 200 kB, with a prompt and an answer every 200 calls.
"""

import fcntl
import json
import os
import tempfile
import time
import tracemalloc
from pathlib import Path

from agentd.agents.codex.threads import Threads

THREAD = "01a1fdb3-8ade-72b1-99e6-4ac5398602b0"
STAMP = "2026-11-21T10:42:50.237Z"


def line(kind: str, payload: dict[str, object]) -> bytes:
    record = {"timestamp": STAMP, "ordinal": 7, "type": kind, "payload": payload}
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def said(role: str, text: str) -> bytes:
    return line(
        "response_item", {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}
    )


def turn(number: int, calls: int) -> list[bytes]:
    size = (2_000, 20_000, 200_000)
    lines = [
        line("event_msg", {"type": "task_started", "turn_id": f"t{number}"}),
        said("user", "do it " * 50),
    ]
    for call in range(calls):
        name = f"call_{number}_{call}"
        arguments = json.dumps({"cmd": "cat x"})
        lines.append(
            line(
                "response_item",
                {"type": "function_call", "name": "exec", "arguments": arguments, "call_id": name},
            )
        )
        output = {
            "type": "function_call_output",
            "id": "x",
            "call_id": name,
            "output": "some text\n" * (size[call % 3] // 10),
        }
        lines.append(line("response_item", output))
        lines.append(line("event_msg", {"type": "token_count", "info": {"total": list(range(100))}}))
    lines.append(said("assistant", "done " * 500))
    return [*lines, line("event_msg", {"type": "task_complete", "turn_id": f"t{number}"})]


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        path = folder / "sessions/2026/11/21" / f"rollout-2026-11-21T10-42-44-{THREAD}.jsonl"
        path.parent.mkdir(parents=True)
        (folder / "thread-writer-locks").mkdir()
        with (folder / "thread-writer-locks" / f"{THREAD}.lock").open("w") as lock, path.open("ab") as out:
            fcntl.flock(lock, fcntl.LOCK_EX)
            out.write(line("session_meta", {"id": THREAD, "cwd": "/w", "cli_version": "0.169.0"}))
            number = 0
            while out.tell() < 1_000_000_000:
                out.writelines(turn(number, 200))
                number += 1
            out.flush()
            opening(folder, "1 GB, 10 messages")
            out.writelines(turn(number, 3_000)[:-2])
            out.flush()
            opening(folder, "1 GB, the last turn has 220 MB")
            threads = Threads(folder, owner=os.getuid(), keep=10)
            threads.look()
            began = time.process_time()
            for _ in range(1_000):
                threads.look()
            print(f"{'poll without a change':34} {(time.process_time() - began):6.2f} ms of CPU")
            grown, spent, size = turn(number + 1, 3_000), 0.0, 0
            for start in range(0, len(grown), 80):
                out.writelines(grown[start : start + 80])
                out.flush()
                size += sum(map(len, grown[start : start + 80]))
                began = time.process_time()
                threads.look()
                spent += time.process_time() - began
            print(f"{'growth of 2 MB/s':34} {spent / (size / 2e6) * 100:6.2f} % of a core")


def opening(folder: Path, name: str) -> None:
    began = time.perf_counter()
    Threads(folder, owner=os.getuid(), keep=10).look()
    took_s = time.perf_counter() - began
    tracemalloc.start()
    Threads(folder, owner=os.getuid(), keep=10).look()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{name:34} {took_s * 1000:6.0f} ms {peak / 1e6:6.1f} MB at most")


if __name__ == "__main__":
    main()
