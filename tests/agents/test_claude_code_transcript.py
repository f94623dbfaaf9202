"""The records of a Claude Code transcript: messages, and the state of the turn."""

import copy
import json
import os
import random

import pytest
from agents.claude_files import START, Records
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.agents import session_file
from agentd.agents.claude_code import transcript as transcript_module
from agentd.agents.claude_code.transcript import Transcript, skim
from agentd.agents.session_file import SessionFile


def folded(records, keep=100):
    transcript = Transcript(keep)
    transcript.add(records)
    return transcript


def texts(transcript):
    return [(one.role, one.content) for one in transcript.messages]


# What is a message.


def test_the_records_of_one_answer_are_one_message():
    made = Records()
    call = {"type": "tool_use", "id": "t", "name": "Bash", "input": {}}
    thought = {"type": "thinking", "thinking": "hm"}
    records = [made.prompt("do it")]
    records += [
        made.answer(block, stop="tool_use", message="msg_1") for block in (thought, "one", "two", call)
    ]
    records += [made.result("t"), made.answer("done")]
    assert texts(folded(records)) == [("user", "do it"), ("agent", "one\n\ntwo"), ("agent", "done")]


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        ("<command-name>/clear</command-name>", {}),
        ("<local-command-stdout>done</local-command-stdout>", {}),
        ("<bash-input>ls</bash-input>", {}),
        ("<bash-stdout>a</bash-stdout><bash-stderr></bash-stderr>", {"turnOrigin": "human"}),
        ("<task-notification>x</task-notification>", {"promptSource": "system"}),
        ("[Request interrupted by user]", {}),
        ([{"type": "text", "text": "[Request interrupted by user for tool use]"}], {}),
        ([{"type": "tool_result", "tool_use_id": "t", "content": "secret"}], {}),
        ("This session is being continued", {"isCompactSummary": True, "isVisibleInTranscriptOnly": True}),
        ("a caveat", {"isMeta": True}),
        ("a subagent's task", {"isSidechain": True}),
        ([{"type": "image", "source": {}}], {"promptSource": "typed"}),
        (None, {}),
        (7, {}),
    ],
)
def test_what_the_user_did_not_write_is_no_message(content, fields):
    made = Records()
    first, second = made.prompt("hello"), made.answer("hello yourself")
    assert texts(folded([first, second, made.user(content, **fields)])) == [
        ("user", "hello"),
        ("agent", "hello yourself"),
    ]


@pytest.mark.parametrize("source", ["typed", "queued", "sdk"])
def test_a_prompt_that_looks_like_markup_is_a_message(source):
    prompt = Records().prompt("<bash-input> is what I mean", promptSource=source)
    assert texts(folded([prompt])) == [("user", "<bash-input> is what I mean")]


def test_an_error_of_the_model_is_a_message_and_the_filler_after_a_resume_is_not():
    made = Records()
    records = [
        made.prompt("one"),
        made.answer("API Error: 500", stop="stop_sequence", model="<synthetic>", isApiErrorMessage=True),
        made.prompt("two"),
        made.answer("No response requested.", stop="stop_sequence", model="<synthetic>"),
    ]
    assert texts(folded(records)) == [("user", "one"), ("agent", "API Error: 500"), ("user", "two")]


def test_a_rewind_leaves_its_branch_out():
    made = Records()
    first, answer = made.prompt("one"), made.answer("first")
    dead = [made.prompt("dead"), made.answer("end")]
    made.leaf = answer["uuid"]
    assert texts(folded([first, answer, *dead, made.prompt("two")])) == [
        ("user", "one"),
        ("agent", "first"),
        ("user", "two"),
    ]


def test_the_chain_goes_on_behind_a_compaction_and_through_records_of_unknown_types():
    made = Records()
    records = [made.prompt("one"), made.answer("first"), made.record("news-of-2027")]
    last = made.leaf
    made.leaf = None
    records += [
        made.record("system", subtype="compact_boundary", logicalParentUuid=last),
        made.user("summary", isCompactSummary=True),
        made.prompt("two"),
    ]
    transcript = Transcript(10)
    assert transcript.add(records) == {"unknown": 1}
    assert texts(transcript) == [("user", "one"), ("agent", "first"), ("user", "two")]


def test_a_record_that_is_repeated_counts_once():
    made = Records()
    records = [made.prompt("one"), made.answer("first"), made.prompt("two")]
    assert texts(folded(records + copy.deepcopy(records[:2]))) == texts(folded(records))


def test_two_calls_at_once_lose_no_text():
    made = Records()
    records = [made.prompt("one"), made.answer("text", stop="tool_use", message="m")]
    calls = [
        made.answer({"type": "tool_use", "id": t, "name": "B"}, stop="tool_use", message="m") for t in "ab"
    ]
    results = []
    for call, tool in zip(calls, "ab", strict=True):
        made.leaf = call["uuid"]
        results.append(made.result(tool))
    transcript = folded(records + calls + results[:1])
    assert (texts(transcript)[-1], len(transcript.turn.tools)) == (("agent", "text"), 1)
    transcript = folded(records + calls + results + [made.answer("end")])
    assert texts(transcript) == [("user", "one"), ("agent", "text"), ("agent", "end")]


# The turn.


def turns():
    """Name → records and whether the turn is open then, how it ended, the tools without a result."""
    made = Records()
    prompt = [made.prompt("go")]
    ended = [*prompt, made.answer("done")]
    called = [*prompt, made.call(name="Bash", description="list files")]
    denied = made.result("toolu_1", toolDenialKind="user-rejected")
    return {
        "nothing": ([], False, "", ()),
        "prompt": (prompt, True, "", ()),
        "text in a turn": ([*prompt, made.answer("hm", stop="tool_use")], True, "", ()),
        "text without a reason": ([*prompt, made.answer("hm", stop=None)], True, "", ()),
        "end": (ended, False, "end_turn", ()),
        "length": ([*prompt, made.answer("x", stop="max_tokens")], False, "max_tokens", ()),
        "duration": ([*ended, made.duration()], False, "turn_duration", ()),
        "call": (called, True, "", ("Bash",)),
        "result": ([*called, made.result()], True, "", ()),
        "denial in -p": ([*called, denied], True, "", ()),
        "denial": ([*called, denied, made.user("[Request interrupted by user for tool use]")], False, "interrupted", ()),
        "interrupt": ([*prompt, made.answer("x", stop=None), made.user("[Request interrupted by user]")], False, "interrupted", ()),
        "API error": ([*prompt, made.answer("E", stop="stop_sequence", model="<synthetic>", isApiErrorMessage=True)], False, "API error", ()),
        "notification": ([*ended, made.user("<task-notification>x", promptSource="system")], True, "", ()),
        "command": ([*ended, made.user("<command-name>/x</command-name>")], True, "", ()),
        "command and output": ([*ended, made.user("<command-name>/x"), made.user("<local-command-stdout>")], False, "command", ()),
        "output alone": ([*prompt, made.user("<local-command-stdout>")], True, "", ()),
        "shell": ([*ended, made.user("<bash-input>ls")], True, "", ()),
        "shell and output": ([*ended, made.user("<bash-input>ls"), made.user("<bash-stdout>")], False, "shell command", ()),
        "shell that the model gets": ([*ended, made.user("<bash-input>ls"), made.user("<bash-stdout>", turnOrigin="human")], True, "", ()),
        "summary": ([*ended, made.user("s", isCompactSummary=True)], False, "end_turn", ()),
        "sidechain": ([*ended, made.user("s", isSidechain=True)], False, "end_turn", ()),
    }  # fmt: skip


@pytest.mark.parametrize("name", turns())
def test_the_state_of_the_turn(name):
    records, is_open, end, tools = turns()[name]
    turn = folded(records).turn
    assert (turn.is_open, turn.end, tuple(tool.name for tool in turn.tools)) == (is_open, end, tools)


def test_background_agents_are_counted_until_they_announce_their_end():
    made = Records()
    transcript = folded([made.prompt("go"), made.answer("x"), made.duration(pendingBackgroundAgentCount=2)])
    note = {"type": "queue-operation", "operation": "enqueue", "content": "<task-notification>x"}
    counts = [transcript.turn.background]
    for record in (
        note,
        {"type": "queue-operation", "operation": "enqueue", "content": "a prompt"},
        note,
        note,
    ):
        transcript.add([record])
        counts.append(transcript.turn.background)
    assert counts == [2, 1, 1, 0, 0]


def test_the_latest_prompt_and_the_last_directory_are_known():
    made = Records()
    transcript = folded(
        [made.prompt("one"), made.prompt("two", cwd="/other"), made.answer("x", cwd="/other")]
    )
    assert (transcript.prompted_at, transcript.directory) == (START + 2, "/other")


# Any file.


def session(seed, turns=12):
    """Records of a session that does a bit of everything."""
    draw = random.Random(seed)
    made = Records(f"{seed:08x}-0000-4000-8000-000000000000")
    records = []
    for number in range(turns):
        if number > 2 and draw.random() < 0.15:
            made.leaf = draw.choice(records)["uuid"]  # a rewind
        if draw.random() < 0.1:
            last, made.leaf = made.leaf, None
            records += [
                made.record("system", subtype="compact_boundary", logicalParentUuid=last),
                made.user("summary", isCompactSummary=True),
            ]
        records.append(made.prompt(f"prompt {number} {'你' * draw.randrange(40)}"))
        for call in range(draw.randrange(4)):
            message = f"msg_{number}_{call}"
            records += [
                made.answer(f"text {number} {call}", stop="tool_use", message=message),
                made.answer(
                    {"type": "tool_use", "id": message, "name": "Bash"}, stop="tool_use", message=message
                ),
                made.record("attachment", attachment={"type": "x", "text": "y" * draw.randrange(300)}),
                made.result(message),
            ]
        match draw.randrange(4):
            case 0:
                records.append(made.user("[Request interrupted by user]"))
            case 1:
                records += [
                    made.answer(f"end {number}"),
                    made.duration(pendingBackgroundAgentCount=draw.randrange(2)),
                ]
            case 2:
                records += [made.answer(f"end {number}"), made.user("side", isSidechain=True)]
    return records


def encoded(records):
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def written(records):
    """Every text that user and agent wrote."""
    found = set()
    for record in records:
        content = record.get("message", {}).get("content", [])
        found.add(content) if isinstance(content, str) else found.update(b.get("text", "") for b in content)
    return found


class Follower:
    """Follows one file as the agent does."""

    def __init__(self, path, keep):
        self.keep, self.file = keep, SessionFile(path, owner=os.getuid(), skim=skim)
        self.transcript = Transcript(keep)

    def read(self):
        self._read()
        if self.transcript.lacks_records:
            self.file.restart()
            self._read()
        return self.transcript

    def _read(self):
        read = self.file.read(lambda records: folded(records, self.keep).is_enough)
        if read.restarted:
            self.transcript = Transcript(self.keep)
        self.transcript.add(read.records)


def same(one, other):
    assert one.messages == other.messages
    assert one.turn == other.turn
    assert one.prompted_at == other.prompted_at


SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture
def small(monkeypatch):
    """Limits that a test reaches."""
    monkeypatch.setattr(session_file, "BLOCK_BYTES", 2048)
    monkeypatch.setattr(transcript_module, "NODES_MAX", 20)
    monkeypatch.setattr(transcript_module, "RECENT", 4)


@pytest.mark.property
@settings(max_examples=40)
@given(seed=SEEDS, keep=st.integers(1, 12), cuts=st.lists(st.floats(0, 1), max_size=6))
def test_following_a_file_in_any_pieces_gives_what_a_whole_read_gives(
    tmp_path_factory, request, seed, keep, cuts
):
    patch = pytest.MonkeyPatch()
    with patch.context() as small:
        small.setattr(session_file, "BLOCK_BYTES", 2048)
        small.setattr(transcript_module, "NODES_MAX", 20)
        small.setattr(transcript_module, "RECENT", 4)
        whole = encoded(session(seed))
        path = tmp_path_factory.mktemp("t") / "t.jsonl"
        path.touch()
        follower = Follower(path, keep)
        ends = sorted({int(cut * len(whole)) for cut in cuts} | {len(whole)})
        for start, end in zip([0, *ends], ends, strict=False):
            with path.open("ab") as out:
                out.write(whole[start:end])
            same(follower.read(), Follower(path, keep).read())
            small.setattr(transcript_module, "NODES_MAX", 10**6)
            lines = whole[:end].split(b"\n")[:-1]
            same(follower.transcript, folded(map(json.loads, lines), keep))
            small.setattr(transcript_module, "NODES_MAX", 20)


@pytest.mark.property
@given(seed=SEEDS, share=st.floats(0, 1), damage=st.lists(st.tuples(SEEDS, SEEDS), max_size=8))
def test_a_damaged_prefix_gives_no_exception_and_no_invented_message(tmp_path_factory, seed, share, damage):
    records = session(seed)
    whole = bytearray(encoded(records))
    del whole[int(share * len(whole)) :]
    for where, what in damage:
        if whole:
            whole[where % len(whole)] = what % 256
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    path.write_bytes(whole)
    transcript = Follower(path, 10).read()
    lines = [line for line in bytes(whole).split(b"\n")[:-1] if line]
    intact = written(records)
    changed = {text for line in lines for text in _written_in(line)}
    for message in transcript.messages:
        assert set(message.content.split("\n\n")) <= intact | changed


def _written_in(line):
    try:
        return written([json.loads(line)])
    except (ValueError, AttributeError, TypeError):
        return set()


@pytest.mark.property
@given(seed=SEEDS, other=SEEDS, order=SEEDS)
def test_two_sessions_that_grow_at_the_same_time_do_not_mix(tmp_path_factory, seed, other, order):
    folder = tmp_path_factory.mktemp("t")
    draw = random.Random(order)
    files = []
    for name, records in (("a", session(seed, 4)), ("b", session(other ^ 1, 4))):
        path = folder / name
        path.touch()
        files.append((path, Follower(path, 10), [json.dumps(one) + "\n" for one in records], records))
    while any(lines for _, _, lines, _ in files):
        path, follower, lines, _ = draw.choice([one for one in files if one[2]])
        with path.open("a") as out:
            out.write("".join(lines[:3]))
        del lines[:3]
        follower.read()
    for _, follower, _, records in files:
        same(follower.read(), folded(records, 10))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.property
@given(
    seed=SEEDS,
    changes=st.lists(
        st.tuples(
            SEEDS,
            st.sampled_from(
                ["type", "uuid", "parentUuid", "logicalParentUuid", "message", "timestamp", "subtype", "isMeta",
                 "isSidechain", "promptSource", "operation", "content", "cwd", "pendingBackgroundAgentCount",
                 "message.content", "message.id", "message.stop_reason"]
            ),
            json_values,
        ),
        max_size=10,
    ),
)  # fmt: skip
def test_any_value_in_any_field_gives_no_exception(seed, changes):
    records = copy.deepcopy(session(seed, 5))
    for where, name, value in changes:
        record = records[where % len(records)]
        outer, _, inner = name.partition(".")
        if inner and isinstance(record.get(outer), dict):
            record[outer][inner] = value
        elif not inner:
            record[name] = value
    transcript = folded(records, 5)
    assert len(transcript.messages) <= 5
    assert all(isinstance(one.content, str) and isinstance(one.id, int) for one in transcript.messages)


def test_a_cycle_of_parents_ends():
    made = Records()
    one, two = made.prompt("one"), made.prompt("two")
    one["parentUuid"] = two["uuid"]
    assert texts(folded([one, two])) == [("user", "one"), ("user", "two")]


def test_a_long_session_needs_bounded_memory(monkeypatch):
    monkeypatch.setattr(transcript_module, "NODES_MAX", 100)
    monkeypatch.setattr(transcript_module, "RECENT", 10)
    made = Records()
    transcript = Transcript(5)
    transcript.add([made.prompt("begin")])
    for number in range(3_000):
        transcript.add([made.call(f"t{number}"), made.result(f"t{number}")])
    assert len(transcript._nodes) <= 200
    transcript.add([made.answer("end")])
    assert texts(transcript) == [("user", "begin"), ("agent", "end")]
