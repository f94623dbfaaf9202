"""Writes the files of Codex as Codex writes them, and holds its locks."""

import fcntl
import json
import os
import time
import uuid
from datetime import UTC, datetime

from aiohttp import web


def stamp(at):
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class RolloutWriter:
    """One rollout. `at` is the Unix time of the next record, now by default."""

    def __init__(self, folder, *, thread=None, day="2026/11/21", parent="", directory="/w", mode="paginated"):
        self.thread = thread or str(uuid.uuid4())
        self.path = folder / "sessions" / day / f"rollout-2026-11-21T10-00-00-{self.thread}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.mode, self.parent, self.directory = mode, parent, directory
        self.ordinal = 0
        self.at = None
        self.turns = []
        self.last = 0.0

    def write(self, kind, payload):
        self.last = max(self.at or time.time(), self.last + 0.001)
        record = {"timestamp": stamp(self.last)}
        if self.mode == "paginated":
            record["ordinal"] = self.ordinal
        self.ordinal += 1
        with self.path.open("a") as out:
            out.write(json.dumps({**record, "type": kind, "payload": payload}, separators=(",", ":")) + "\n")

    def begin(self, **more):
        source = {"subagent": {"thread_spawn": {"parent_thread_id": self.parent}}} if self.parent else "cli"
        meta = {"id": self.thread, "session_id": self.parent or self.thread, "cwd": self.directory}
        if self.parent:
            meta["parent_thread_id"] = self.parent
        meta |= {"timestamp": stamp(time.time()), "cli_version": "0.169.0", "source": source}
        self.write("session_meta", meta | {"history_mode": self.mode, "base_instructions": "x" * 500} | more)

    def event(self, kind, **more):
        self.write("event_msg", {"type": kind, **more})

    def message(self, role, text):
        kind = "output_text" if role == "assistant" else "input_text"
        content = [{"type": kind, "text": text}]
        self.write("response_item", {"type": "message", "role": role, "content": content})
        if self.mode == "legacy" and role != "developer":
            self.event({"user": "user_message", "assistant": "agent_message"}[role], message=text)

    def start_turn(self, prompt):
        self.turns.append(str(uuid.uuid4()))
        self.event("task_started", turn_id=self.turns[-1], started_at=int(time.time()))
        self.write("turn_context", {"turn_id": self.turns[-1], "cwd": self.directory, "model": "m"})
        self.message("developer", "<permissions instructions>all</permissions instructions>")
        self.message("user", "<environment_context>\n  <cwd>/w</cwd>\n</environment_context>")
        self.message("user", prompt)

    def end_turn(self, answer):
        self.message("assistant", answer)
        self.event("token_count", info={})
        self.event("task_complete", turn_id=self.turns[-1], last_agent_message=answer)

    def call(self, command, why="", call="call_1"):
        arguments = json.dumps({"cmd": command, "justification": why})
        item = {"type": "function_call", "name": "exec_command", "arguments": arguments, "call_id": call}
        self.write("response_item", item)

    def result(self, output, call="call_1"):
        self.write("response_item", {"type": "function_call_output", "call_id": call, "output": output})


class WriterLock:
    """The lock of a thread, held by this process."""

    def __init__(self, folder, thread):
        self.path = folder / "thread-writer-locks" / f"{thread}.lock"
        self.path.parent.mkdir(exist_ok=True)
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self, *, killed=False):
        """`killed`: the file stays, as after SIGKILL."""
        os.close(self.fd)
        if not killed:
            self.path.unlink()


class FakeDaemon:
    """Codex's app-server as far as it is used. `threads` is the answer to `thread/list`."""

    def __init__(self, folder):
        self.link = folder / "app-server-control" / "app-server-control.sock"
        self.threads = []
        self.methods = []
        self.raw = None
        self.clients = 0
        self._runner = None

    def say(self, thread, kind, *flags):
        status = {"type": kind, "activeFlags": list(flags)} if kind == "active" else {"type": kind}
        others = [one for one in self.threads if one["id"] != thread]
        self.threads = [*others, {"id": thread, "status": status, "path": "/x"}]

    async def start(self, path):
        app = web.Application()
        app.router.add_get("/", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(path)).start()
        self.link.parent.mkdir(exist_ok=True)
        self.link.symlink_to(path)

    async def stop(self):
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request):
        opened = web.WebSocketResponse()
        await opened.prepare(request)
        self.clients += 1
        async for message in opened:
            call = json.loads(message.data)
            self.methods.append(call["method"])
            if "id" not in call:
                continue
            await opened.send_json({"method": "thread/status/changed", "params": {}})
            if self.raw is not None and call["method"] == "thread/list":
                await opened.send_str(self.raw)
            else:
                result = {"data": self.threads} if call["method"] == "thread/list" else {"userAgent": "x"}
                await opened.send_json({"id": call["id"], "result": result})
        return opened
