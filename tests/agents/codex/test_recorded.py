"""What Codex wrote, replayed in the time in which it wrote it."""

import json
import re
from collections import defaultdict

import pytest
from agents.codex_files import WriterLock

from agentd.agents.agent import Activity
from agentd.agents.codex.threads import Threads

SESSION = re.compile(r"sessions/.*-([0-9a-f]{8}-[0-9a-f-]{27})\.jsonl$")
LOCK = re.compile(r"thread-writer-locks/([0-9a-f-]{36})\.lock$")
POLL_MS = 500
STATES = {"idle": Activity.IDLE, "busy": Activity.BUSY, "waiting": Activity.WAITING}
LATE_MS = 1500
END = ("task_complete", "turn_aborted")


@pytest.fixture(scope="module")
def recorded(data_dir):
    """The folder of each recorded release."""
    return sorted((data_dir / "sessions").glob("codex-*"))


class Replay:
    """Writes the rollouts, takes the locks and sets the daemon's states, as the timeline says."""

    def __init__(self, recording, folder, daemon):
        self.folder, self.daemon = folder, daemon
        self.timeline = json.loads((recording / "timeline.json").read_text("utf-8"))
        self.lines = {}
        for path in recording.glob("*.jsonl"):
            lines = path.read_bytes().splitlines(keepends=True)
            first = json.loads(lines[0])
            if first.get("type") == "session_meta":
                thread = first["payload"]["id"]
                self.lines[thread] = max(self.lines.get(thread, []), lines, key=len)
        self.written = defaultdict(int)
        self.locks = {}
        self.main, self.mark, self.shown = "", "", "dead"
        self.last = {}

    def steps(self):
        """Yields the ms of each entry, and then applies it; until a rollout continues that was not recorded."""
        for entry in self.timeline:
            yield entry["t_ms"]
            name = entry.get("file", "")
            self.mark = entry.get("mark", self.mark)
            if "tui" in entry:
                self.shown = entry["tui"]
                if self.main and self.shown in STATES:
                    flags = ["waitingOnApproval"] if self.shown == "waiting" else []
                    self.daemon.say(self.main, "idle" if self.shown == "idle" else "active", *flags)
            if (match := LOCK.search(name)) is not None:
                self._lock(match[1], entry["what"])
            match, count = SESSION.search(name), len(entry.get("records", ()))
            if match and count and not self._write(self.folder / name.partition("/")[2], match[1], count):
                return

    def _lock(self, thread, what):
        if what == "deleted" and thread in self.locks:
            self.locks.pop(thread).release()
        elif what in ("created", "present") and thread not in self.locks:
            self.locks[thread] = WriterLock(self.folder, thread)

    def _write(self, path, thread, count):
        start = self.written[thread]
        self.written[thread] = start + count
        lines = self.lines[thread][start : start + count]
        if len(lines) < count:
            return False
        self.main = self.main or thread
        self.last[thread] = json.loads(lines[-1])["payload"].get("type", "")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as out:
            out.writelines(lines)
        return True

    def close(self):
        for lock in self.locks.values():
            lock.release()

    def expected(self, has_daemon):
        """What agentd must show; None where the terminal does not tell, because it has ended."""
        if self.shown not in STATES:
            return None
        if self.shown == "waiting" and not has_daemon:
            return Activity.BUSY
        is_helped = any(not last.startswith(END) for thread, last in self.last.items() if thread != self.main)
        return Activity.BUSY if self.shown == "idle" and is_helped else STATES[self.shown]


@pytest.mark.parametrize("has_daemon", [True, False])
async def test_a_recorded_session_shows_what_its_terminal_showed(
    recorded, folder, daemon, make_agent, old_process, has_daemon
):
    for recording in recorded:
        replay = Replay(recording, folder, daemon)
        if has_daemon:
            await daemon.start(folder / "s")
        agent = make_agent()
        shown_since = [(float("-inf"), None)]
        states, next_ms, changed_ms = [], 0, 0
        for at in replay.steps():
            if (state := replay.expected(has_daemon)) is not shown_since[-1][1]:
                shown_since.append((changed_ms, state))
            changed_ms = at
            while next_ms <= at:
                activity = (await agent.observe()).activity
                if not states or states[-1][2] is not activity:
                    states.append((next_ms, replay.mark, activity))
                while len(shown_since) > 1 and shown_since[1][0] <= next_ms - LATE_MS:
                    shown_since.pop(0)
                allowed = {state for _, state in shown_since}
                assert None in allowed or activity in allowed, (next_ms, replay.mark, activity)
                next_ms += POLL_MS
        replay.close()
        assert len(states) > 30
        assert replay.daemon.clients < (60 if has_daemon else 1)


def test_every_recorded_session_is_read_the_same_whole_and_line_by_line(recorded, tmp_path):
    for recording in recorded:
        for path in sorted(recording.glob("*.jsonl")):
            lines = path.read_bytes().splitlines(keepends=True)
            meta = json.loads(lines[0])
            if meta.get("type") != "session_meta":
                continue
            home = tmp_path / path.stem
            copy = home / "sessions/2026/11/21" / f"rollout-2026-11-21T10-42-44-{meta['payload']['id']}.jsonl"
            copy.parent.mkdir(parents=True)
            following = Threads(home, owner=tmp_path.stat().st_uid, keep=10)
            with copy.open("ab", buffering=0) as out:
                for line in lines:
                    out.write(line)
                    following.look()
            followed = following.look().threads
            [whole] = Threads(home, owner=tmp_path.stat().st_uid, keep=10).look().threads
            assert [one.messages for one in followed] == [whole.messages]
            texts = [message.content for message in whole.messages]
            assert texts, path.stem
            assert not [text for text in texts if text.startswith("<")]
            assert whole.messages[0].role == "user" or len(texts) == 10
            ends = [json.loads(line)["payload"] for line in lines if b'"type":"task_complete"' in line]
            said = [end["last_agent_message"] for end in ends if end.get("last_agent_message")]
            if whole.ending == "the turn is complete":
                assert texts[-1] == said[-1]
