"""Replays the recorded files of Claude Code in virtual time: each change at the time at which it was seen."""

import json
import os
import re
from pathlib import Path

from agentd.agents.claude_code import registry
from agentd.agents.claude_code.sessions import SessionReader
from agentd.conversation.redaction import Redactor
from agentd.proc import ProcessStat

STEP_MS = 100  # of the recorder


class Replay:
    """One recorded folder. `at_ms` is the time of the recording up to which `home` has its files."""

    def __init__(self, recorded: Path, home: Path, monkeypatch) -> None:
        self.at_ms = 0
        self.skipped: list[tuple[str, int]] = []
        self.home = home
        (home / "sessions").mkdir(parents=True)
        (home / "projects" / "-workspace").mkdir(parents=True)
        self._alive: dict[int, int] = {}
        self._written: dict[str, int] = {}
        self.timeline = json.loads((recorded / "timeline.json").read_text())
        self._left = list(self.timeline)
        # The longest of the saved states of each session.
        self._lines: dict[str, list[str]] = {}
        for path in sorted(recorded.glob("*.jsonl"), key=lambda one: one.stat().st_size):
            lines = path.read_text().splitlines(keepends=True)
            session = json.loads(lines[-1]).get("sessionId") or json.loads(lines[0]).get("sessionId")
            if session and not path.name.startswith(("agent-", "hooks")):
                self._lines[session] = max(self._lines.get(session, []), lines, key=len)
        rows = [(event["t_ms"], one[1]) for event in self.timeline if (one := self._row(event))]
        # The recorder saw a row at most 100 ms after it was written.
        self._began_ms = max(row["statusUpdatedAt"] - at for at, row in rows if row.get("statusUpdatedAt"))
        monkeypatch.setattr(registry, "read_stat", self._stat)

    def wall(self) -> float:
        return (self._began_ms + self.at_ms) / 1000

    def reader(self, keep=1000) -> SessionReader:
        return SessionReader(
            self.home,
            owner=os.getuid(),
            directory=None,
            keep=keep,
            wall=self.wall,
            redact=Redactor(values=tuple),
            skipped=lambda *skipped: self.skipped.append(skipped),
        )

    def advance(self, to_ms: int) -> None:
        while self._left and self._left[0]["t_ms"] <= to_ms:
            self._apply(self._left.pop(0))
        self.at_ms = to_ms

    def _stat(self, pid):
        ticks = self._alive.get(pid)
        return None if ticks is None else ProcessStat(pid, "S", 1, 1, ticks)

    def _row(self, event):
        name = re.search(r"sessions/(\d+)\.json$", event.get("file", ""))
        return (int(name[1]), json.loads(event["text"])) if name and event.get("text") else None

    def _apply(self, event) -> None:
        name = event.get("file", "")
        if row := self._row(event):
            self._alive[row[0]] = int(row[1]["procStart"])
            (self.home / "sessions" / f"{row[0]}.json").write_text(event["text"])
        elif (gone := re.search(r"sessions/(\d+)\.json$", name)) and event["what"] == "deleted":
            (self.home / "sessions" / f"{gone[1]}.json").unlink()
            self._alive.pop(int(gone[1]), None)
        elif event.get("tui") == "dead":
            self._alive.clear()
        elif event.get("mark") == "second: kill":
            self._alive.popitem()
        elif (grown := re.search(r"projects/-workspace/([0-9a-f-]{36})\.jsonl$", name)) and event.get("n"):
            self._write(grown[1], event["n"])

    def _write(self, session, count) -> None:
        done = self._written.get(session, 0)
        self._written[session] = done + count
        lines = self._lines.get(session, [])[done : done + count]
        if lines:
            with (self.home / "projects" / "-workspace" / f"{session}.jsonl").open("a") as out:
                out.write("".join(lines))


def states(replay, reader):
    """For each mark of the recording, the states after it: (milliseconds after the mark, activity, evidence)."""
    cases = []
    before = None
    marks = [event for event in replay.timeline if "mark" in event]
    end = replay.timeline[-1]["t_ms"]
    for number, mark in enumerate(marks):
        until = marks[number + 1]["t_ms"] if number + 1 < len(marks) else end
        changes = []
        for at in range(-(-mark["t_ms"] // STEP_MS) * STEP_MS, until, STEP_MS):
            replay.advance(at)
            seen = observed(reader.look())
            if seen[0] != before:
                before = seen[0]
                changes.append((at - mark["t_ms"], *seen))
        cases.append((mark["mark"], changes))
    return cases


def observed(view):
    order = ("busy", "waiting", "idle")
    found = {one.observation.activity.value: one.observation for one in reversed(view.live)}
    for activity in order:
        if activity in found:
            return activity, found[activity].strength.name, found[activity].evidence
    return "gone", "", "; ".join(view.problems + view.broken)
