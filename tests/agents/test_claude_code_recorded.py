"""Recordings of Claude Code 2.1.330, replayed in virtual time, give the states that the terminal showed."""

import itertools
import json
import os

import pytest
from agents.claude_replay import STEP_MS, Replay, observed, states

from agentd.agents.claude_code.agent import ClaudeCodeAgent
from agentd.agents.claude_code.transcript import Transcript
from agentd.clock import Clock
from agentd.stability.tracker import Tracker
from agentd.stability.watcher import Watcher
from agentd.worker_thread import WorkerThread

# The recorder and the replay see each change at most 100 ms late.
TOLERANCE_MS = 250

BUSY, WAITING, IDLE, GONE = "busy", "waiting", "idle", "gone"

# Mark of the recording → the states that follow it, with milliseconds after the mark, as the terminal showed them. Where
# it showed something else: a subagent that runs is busy; a dialog without a turn is idle; a start is idle when its row
# is there; `claude -p` has no terminal, so the times are those of its row.
EXPECTED = {
    "claude-2.1.330": [
        ("start", [(0, GONE), (817, IDLE)]),
        ("plain: prompt", [(705, BUSY), (1108, IDLE)]),
        ("slow: prompt", [(394, BUSY), (10744, IDLE)]),
        ("approve: prompt", [(398, BUSY), (788, WAITING)]),
        ("approve: TUI waiting; approve", [(264, BUSY), (565, IDLE)]),
        ("deny: prompt", [(418, BUSY), (805, WAITING)]),
        ("deny: TUI waiting; deny", [(180, BUSY), (272, IDLE)]),
        ("sleep: prompt", [(345, BUSY), (745, WAITING)]),
        ("sleep: TUI waiting; approve", [(122, BUSY), (8574, IDLE)]),
        ("two: prompt", [(407, BUSY), (914, WAITING)]),
        ("two: TUI waiting; approve", [(93, BUSY), (395, WAITING)]),
        ("two: TUI waiting; approve", [(175, BUSY), (376, IDLE)]),
        ("cjk: prompt", [(374, BUSY), (568, IDLE)]),
        ("interrupt-stream: prompt", [(373, BUSY)]),
        ("interrupt-stream: interrupt", [(208, IDLE)]),
        ("interrupt-tool: prompt", [(353, BUSY), (749, IDLE)]),
        ("error: prompt", [(390, BUSY), (787, IDLE)]),
        ("after: prompt", [(395, BUSY), (598, IDLE)]),
        ("big: prompt", [(387, BUSY), (588, IDLE)]),
        ("ask: prompt", [(389, BUSY), (686, WAITING)]),
        ("ask: TUI waiting; interrupt", [(182, BUSY), (276, IDLE)]),
        ("sub: prompt", [(392, BUSY)]),
        ("exit", [(2355, IDLE)]),
        ("exited", [(99, GONE)]),
        ("resume", [(377, IDLE)]),
        ("resumed: prompt", [(158, BUSY), (558, IDLE), (696, BUSY), (1804, IDLE)]),
        ("kill-stream: prompt", [(437, BUSY)]),
        ("kill-stream: kill", [(108, GONE)]),
        ("resume", [(1074, IDLE)]),
        ("resumed2: prompt", [(524, BUSY), (1124, IDLE)]),
        ("kill-waiting: prompt", [(433, BUSY), (729, WAITING)]),
        ("kill-waiting: kill", [(127, GONE)]),
        ("resume", [(800, IDLE)]),
        ("kill-tool: prompt", [(961, BUSY), (1851, IDLE)]),
        ("kill-tool: kill", [(81, GONE)]),
        ("resume", [(571, IDLE)]),
        ("resumed3: prompt", [(473, BUSY), (775, IDLE)]),
        ("exit2", [(474, GONE)]),
        ("headless", [(1780, IDLE), (1979, BUSY), (2284, GONE)]),
        ("headless-tool", [(693, IDLE), (893, BUSY), (2523, GONE)]),
    ],
    "claude-2.1.330-extra": [
        ("start", [(0, GONE), (612, IDLE)]),
        ("plain: prompt", [(451, BUSY), (1155, IDLE)]),
        ("second session same cwd", [(5471, BUSY), (5976, IDLE)]),
        ("bg shell", [(609, BUSY), (1789, IDLE), (13180, BUSY), (13373, IDLE)]),
        ("shell mode", [(756, BUSY), (4861, IDLE)]),
        ("sub", [(396, BUSY), (5344, IDLE)]),
        ("queued prompt", [(368, BUSY), (6924, IDLE)]),
        ("compact", [(418, BUSY), (1919, IDLE)]),
        ("clear", [(415, BUSY), (606, IDLE), (3923, BUSY), (4219, IDLE)]),
        ("exit", [(371, GONE)]),
        ("continue", [(510, IDLE), (5535, BUSY), (5865, IDLE)]),
        ("kill -9", [(152, GONE)]),
        ("fork", [(886, IDLE), (5418, BUSY), (5832, IDLE), (8546, GONE)]),
        ("minimal home", [(537, IDLE), (6501, BUSY), (7604, IDLE), (10630, GONE)]),
        ("same, another cwd", [(808, IDLE)]),
        ("trimmed", [(93, GONE), (702, IDLE), (6466, BUSY), (6970, IDLE), (10902, GONE)]),
        ("-p json", [(938, IDLE), (1058, BUSY), (1961, GONE)]),
    ],
    "claude-2.1.330-tools": [
        ("start", [(0, GONE), (1012, IDLE)]),
        ("plain: prompt", [(569, BUSY), (2807, IDLE)]),
        ("big: prompt", [(478, BUSY), (978, IDLE)]),
        ("tool: prompt", [(452, BUSY), (2060, WAITING)]),
        ("tool: TUI waiting; approve", [(453, BUSY), (1878, IDLE)]),
        ("interrupt-tool", [(469, BUSY), (1092, WAITING), (1786, BUSY)]),
        ("Esc", [(314, IDLE)]),
        ("kill-tool", [(469, BUSY), (1060, WAITING), (1673, BUSY)]),
        ("kill -9", [(180, GONE)]),
        ("resume", [(661, IDLE)]),
        ("resumed: prompt", [(447, BUSY), (951, IDLE)]),
        ("terminate", [(128, GONE)]),
        ("resume", [(516, IDLE)]),
        ("resumed", [(527, BUSY)]),
        ("SIGHUP", [(77, GONE)]),
    ],
}  # fmt: skip

SLOW = "slow chunk 0 of 20. slow chunk 1 of 20."
# Session → the messages at the end of the recording, the first 30 letters of each.
CONVERSATIONS = {
    "claude-2.1.330": ("kill-tool", [
        ("user", "hello @@plain"), ("agent", "Plain answer to plain."), ("user", "talk @@slow 10"), ("agent", SLOW),
        ("user", "do @@tool"), ("agent", "I will make a file."), ("agent", "Tool finished (4)."),
        ("user", "do @@tool"), ("agent", "I will make a file."), ("user", "run @@sleep 8"),
        ("agent", "Tool finished (7)."), ("user", "do @@two"), ("agent", "Tool finished (9)."),
        ("user", "talk @@cjk 你好 👩‍👩‍👧‍👦"), ("agent", "你好，世界。テスト完了。한국어도 됩니다. 👩\u200d👩\u200d👧\u200d👦🏳️\u200d🌈"),
        ("user", "talk @@slow 10"), ("agent", SLOW), ("user", "run @@sleep 30"), ("agent", "Tool finished (13)."),
        ("user", "do @@err"), ("agent", "API Error: 400 scripted error"), ("user", "hello @@plain"),
        ("agent", "Plain answer to plain."), ("user", "talk @@big 200"), ("agent", "line 000000 of a long answer, padded to"),
        ("user", "please @@ask"), ("user", "please @@sub"), ("agent", "Tool finished (24)."),
        ("user", "hello @@plain after resume"), ("agent", "Plain answer to plain."), ("user", "talk @@slow 10"),
        ("user", "hello @@plain again"), ("agent", "Plain answer to plain."), ("user", "do @@tool"),
        ("agent", "I will make a file."), ("user", "run @@sleep 30"), ("agent", "Tool finished (31)."),
    ]),
    "claude-2.1.330-extra": ("compact", [
        ("user", "hello @@plain"), ("agent", "Plain answer to plain."), ("user", "go @@bg 12"),
        ("agent", "Tool finished (4)."), ("agent", "Plain answer to your text."), ("agent", "Plain answer to your text."),
        ("user", "go @@sub"), ("agent", "Tool finished (8)."), ("agent", "Plain answer to your text."),
        ("user", "talk @@slow 6"), ("agent", SLOW), ("user", "queued @@plain"), ("agent", "Plain answer to plain."),
    ]),
}  # fmt: skip


def matches(found, expected):
    return [state for _, state, *_ in found] == [state for _, state in expected] and all(
        abs(one[0] - other[0]) <= TOLERANCE_MS for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("folder", EXPECTED)
def test_each_recorded_case_has_the_states_that_the_terminal_showed(data_dir, tmp_path, monkeypatch, folder):
    replay = Replay(data_dir / "sessions" / folder, tmp_path / ".claude", monkeypatch)
    found = [(mark, changes) for mark, changes in states(replay, replay.reader()) if changes]
    for (mark, changes), (name, expected) in itertools.zip_longest(
        found, EXPECTED[folder], fillvalue=("", [])
    ):
        assert mark.startswith(name), f"{mark!r} has {changes}, {name!r} has {expected}"
        assert matches(changes, expected), f"{mark}: {changes}, expected {expected}"
    assert replay.skipped == [], "every record of the tried version is known"


@pytest.mark.parametrize("folder", EXPECTED)
def test_a_question_names_what_it_is_about(data_dir, tmp_path, monkeypatch, folder):
    replay = Replay(data_dir / "sessions" / folder, tmp_path / ".claude", monkeypatch)
    questions = {
        seen[2]
        for _, changes in states(replay, replay.reader())
        for _, *seen in changes
        if seen[0] == WAITING
    }
    assert questions <= {"permission prompt: Bash (run a command)", "Which colour?"}


@pytest.mark.parametrize("folder", CONVERSATIONS)
def test_the_messages_of_a_recording_are_the_texts_of_user_and_agent(data_dir, folder):
    name, expected = CONVERSATIONS[folder]
    text = (data_dir / "sessions" / folder / f"{name}.jsonl").read_text()
    transcript = Transcript(keep=1000)
    transcript.add(json.loads(line) for line in text.splitlines())
    assert [(one.role, one.content[:30]) for one in transcript.messages] == [
        (role, text[:30]) for role, text in expected
    ]
    ids = [one.id for one in transcript.messages]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("folder", EXPECTED)
def test_a_reader_that_begins_at_any_time_sees_what_one_that_followed_sees(
    data_dir, tmp_path, monkeypatch, folder
):
    replay = Replay(data_dir / "sessions" / folder, tmp_path / ".claude", monkeypatch)
    following = replay.reader(keep=4)
    for at in range(0, replay.timeline[-1]["t_ms"], 20 * STEP_MS):
        replay.advance(at)
        followed, fresh = following.look(), replay.reader(keep=4).look()
        assert observed(followed) == observed(fresh)
        assert followed.live == fresh.live


SHOWN = {BUSY: "running", WAITING: "waiting", IDLE: "stable", GONE: "unreachable"}


@pytest.mark.parametrize("phase_ms", [0, 300, 600, 900])
@pytest.mark.parametrize("folder", EXPECTED)
async def test_idle_and_waiting_are_reported_within_a_second_and_a_half(
    data_dir, tmp_path, monkeypatch, folder, phase_ms
):
    """The daemon's own watcher, with its own pauses between polls, beside a recording."""
    replay = Replay(data_dir / "sessions" / folder, tmp_path / ".claude", monkeypatch)
    marks = [(event["t_ms"], event["mark"]) for event in replay.timeline if "mark" in event]
    clock = Clock(monotonic=lambda: replay.at_ms / 1000, wall=replay.wall)
    disk = WorkerThread("test")
    agent = ClaudeCodeAgent(replay.home, owner=os.getuid(), directory=None, keep=10, clock=clock, disk=disk)
    watcher = Watcher(
        agent=agent,
        tracker=Tracker(5.0),
        clock=clock,
        poll_interval_s=1.0,
        checkpoint_s=5.0,
        keep_messages=10,
    )
    reported = []
    watcher.status_changed.add(lambda change: reported.append((replay.at_ms, change.new.value)))
    at = phase_ms
    while at < replay.timeline[-1]["t_ms"]:
        replay.advance(at)
        await watcher.poll()
        at += int(watcher._pause_s() * 1000)
    disk.close(1)
    changes = [*shown(folder, marks), (at, "")]
    checked = 0
    for (_, before), (began, state), (ended, _) in zip(changes, changes[1:], changes[2:], strict=False):
        # A process that starts is idle without a status for up to a second: that is inferred, and settles.
        if state in (IDLE, WAITING) and before != GONE and ended - began > 2000:
            status = [one for when, one in reported if when <= began + 1500]
            assert status[-1] == SHOWN[state], f"{state} at {began} ms of the recording"
            checked += 1
    assert checked > 3


def shown(folder, marks):
    """The expected states of a recording in order, with milliseconds since its start."""
    left = iter(marks)
    for name, changes in EXPECTED[folder]:
        start = next(at for at, mark in left if mark.startswith(name))
        for after, state in changes:
            yield start + after, state
