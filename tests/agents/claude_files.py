"""Writes files as Claude Code 2.1.330 does, beside a real process that stands for it."""

import itertools
import json
import subprocess
import uuid
from datetime import UTC, datetime

from agentd.proc import read_stat

START = 1_772_442_000.0  # 2026-03-02T09:00:00Z, the start of the tests' clock


def stamp(at):
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Records:
    """The records of one transcript, chained as Claude Code chains them."""

    def __init__(self, session=None, *, at=START, directory="/workspace"):
        self.session = session or str(uuid.uuid4())
        self.directory = directory
        self.at = at
        self.leaf = None
        self.number = itertools.count()

    def record(self, kind, *, parent=..., **fields):
        self.at += 1
        one = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.session} {next(self.number)}"))
        parent, self.leaf = self.leaf if parent is ... else parent, one
        base = {
            "parentUuid": parent,
            "isSidechain": False,
            "type": kind,
            "uuid": one,
            "timestamp": stamp(self.at),
        }
        return base | {"sessionId": self.session, "cwd": self.directory, "version": "2.1.330"} | fields

    def prompt(self, text, **fields):
        fields = {"promptSource": "typed", "turnOrigin": "human"} | fields
        return self.record("user", message={"role": "user", "content": text}, **fields)

    def user(self, content, **fields):
        return self.record("user", message={"role": "user", "content": content}, **fields)

    def answer(self, *blocks, stop="end_turn", message=None, model="m", **fields):
        blocks = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
        message = message or f"msg_{self.number}"
        body = {"id": message, "role": "assistant", "model": model, "content": blocks, "stop_reason": stop}
        return self.record("assistant", message=body, **fields)

    def call(self, tool="toolu_1", name="Bash", **given):
        block = {"type": "tool_use", "id": tool, "name": name, "input": given}
        return self.answer(block, stop="tool_use")

    def result(self, tool="toolu_1", content="done", **fields):
        return self.user([{"type": "tool_result", "tool_use_id": tool, "content": content}], **fields)

    def duration(self, **fields):
        return self.record("system", subtype="turn_duration", durationMs=9, **fields)


class ClaudeHome:
    """A configuration folder with one session of a process that runs."""

    def __init__(self, folder, *, directory="/workspace"):
        self.folder = folder
        self.directory = directory
        (folder / "sessions").mkdir(parents=True, mode=0o700)
        (folder / "projects").mkdir()
        self.processes = []
        self.begin()

    def begin(self, *, session=None, at=START):
        """Start a process with a new session."""
        self.process = subprocess.Popen(["sleep", "300"])
        self.processes.append(self.process)
        self.records = Records(session, at=at, directory=self.directory)
        self.row = {
            "pid": self.process.pid,
            "sessionId": self.records.session,
            "cwd": self.directory,
            "startedAt": int(at * 1000),
            "procStart": str(read_stat(self.process.pid).start_ticks),
            "version": "2.1.330",
            "kind": "interactive",
            "entrypoint": "cli",
        }
        self.write_row()

    @property
    def transcript(self):
        slug = "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in self.directory)
        return self.folder / "projects" / slug / f"{self.records.session}.jsonl"

    @property
    def row_path(self):
        return self.folder / "sessions" / f"{self.row['pid']}.json"

    def write_row(self):
        self.row_path.write_text(json.dumps(self.row, separators=(",", ":")))

    def status(self, status, waiting_for=None):
        self.records.at += 0.1
        self.row |= {"status": status, "statusUpdatedAt": int(self.records.at * 1000)}
        self.row.pop("waitingFor", None)
        if waiting_for:
            self.row["waitingFor"] = waiting_for
        self.write_row()

    def write(self, *records):
        self.transcript.parent.mkdir(exist_ok=True)
        with self.transcript.open("a") as out:
            out.write("".join(json.dumps(record) + "\n" for record in records))

    def turn(self, prompt, *answers):
        """A whole turn."""
        self.status("busy")
        self.write(self.records.prompt(prompt))
        if answers:
            self.write(*(self.records.answer(text, stop="tool_use") for text in answers[:-1]))
            self.write(self.records.answer(answers[-1]), self.records.duration())
            self.status("idle")

    def kill(self):
        """SIGKILL: the row stays."""
        self.process.kill()
        self.process.wait()

    def exit(self):
        self.row_path.unlink()
        self.kill()

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
