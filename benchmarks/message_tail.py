"""Measure the time and memory to extract the newest ten messages from a large history.

    .venv/bin/python benchmarks/message_tail.py

Each body is fed in chunks of 64 KiB, as from a socket. For comparison: `json.loads` of the complete body.
"""

import json
import time
import tracemalloc

from agentd.agents.agentapi.messages import MessageTail

BODIES = {
    "20,000 x 10 kB, plain": (20_000, "x" * 10_000),
    "3,000 x 10 kB, screens": (3_000, ("line of some text " * 4 + "\n") * 140),
    "3,000 x 10 kB, code": (3_000, ('foo("bar", x)  # ' * 4 + "\n") * 140),
    "2,000 x 16 kB, quotes": (2_000, '"' * 8_000),
    "2,000 x 16 kB, backslashes": (2_000, "\\" * 8_000),
    "8 x 5 MB": (8, "abc \n" * 1_000_000),
    "100,000 x 100 B": (100_000, "x" * 100),
}
CHUNK_BYTES = 65_536


def main() -> None:
    print(f"{'body':28} {'MB':>6} {'tail MB/s':>10} {'peak MB':>8} {'json MB/s':>10} {'peak MB':>8}")
    for name, (count, content) in BODIES.items():
        body = history(count, content)
        tail_s, tail_peak = measured(lambda body=body: read_tail(body))
        json_s, json_peak = measured(lambda body=body: json.loads(body))
        size = len(body) / 1e6
        print(
            f"{name:28} {size:6.0f} {size / tail_s:10.0f} {tail_peak:8.1f} {size / json_s:10.0f} {json_peak:8.1f}"
        )


def history(count: int, content: str) -> bytes:
    entry = json.dumps({"id": 0, "content": content, "role": "agent", "time": "2026-03-02T09:00:00Z"})
    return ('{"messages":[' + ",".join([entry] * count) + "]}").encode()


def read_tail(body: bytes) -> object:
    tail = MessageTail(10)
    view = memoryview(body)
    for start in range(0, len(body), CHUNK_BYTES):
        tail.feed(bytes(view[start : start + CHUNK_BYTES]))
    return tail.close()


def measured(work):  # noqa: ANN001, ANN201 - any callable
    """Seconds without tracing, then peak megabytes with tracing."""
    began = time.perf_counter()
    work()
    took_s = time.perf_counter() - began
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return took_s, peak


if __name__ == "__main__":
    main()
