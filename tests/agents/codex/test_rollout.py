"""Folding the records of a rollout."""

import itertools
import json

import pytest
from agents.codex_files import RolloutWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.agents import session_file
from agentd.agents.codex import threads
from agentd.agents.codex.rollout import folded, meta_of, skim
from agentd.agents.codex.threads import Threads

KEEP = 4


def records(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def texts(rollout):
    return [(message.role, message.content) for message in rollout.messages]


@pytest.fixture(params=["paginated", "legacy"])
def rollout(request, tmp_path):
    writer = RolloutWriter(tmp_path, mode=request.param)
    writer.begin()
    return writer


def test_both_history_modes_give_each_message_once(rollout):
    rollout.start_turn("one")
    rollout.end_turn("two")
    assert texts(folded(records(rollout.path), KEEP)) == [("user", "one"), ("agent", "two")]


def test_a_turn_is_open_until_its_own_end(rollout):
    rollout.start_turn("one")
    first = rollout.turns[0]
    assert folded(records(rollout.path), KEEP).turn.id == first
    rollout.event("task_complete", turn_id="another turn")
    assert folded(records(rollout.path), KEEP).turn.id == first
    rollout.event("turn_complete", turn_id=first)
    assert folded(records(rollout.path), KEEP).turn is None
    rollout.start_turn("two")
    rollout.event("turn_aborted", turn_id=first, reason="interrupted")
    assert folded(records(rollout.path), KEEP).turn.id == rollout.turns[1]


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("turn_aborted", {"reason": "interrupted"}, "interrupted"),
        ("task_complete", {"error": {"message": "no quota", "codex_error_info": "other"}}, "no quota"),
        ("task_complete", {"last_agent_message": None}, "complete"),
    ],
)
def test_the_way_in_which_a_turn_ended_is_kept(rollout, kind, more, words):
    rollout.start_turn("one")
    rollout.event(kind, turn_id=rollout.turns[-1], **more)
    result = folded(records(rollout.path), KEEP)
    assert result.turn is None
    assert words in result.ending


def test_a_rollback_removes_the_last_turns(rollout):
    for number in range(3):
        rollout.start_turn(f"p{number}")
        rollout.message("user", f"more {number}")
        rollout.end_turn(f"a{number}")
    rollout.event("thread_rolled_back", num_turns=2)
    kept = [("user", "p0"), ("user", "more 0"), ("agent", "a0")]
    assert texts(folded(records(rollout.path), 20)) == kept
    rollout.event("thread_rolled_back", num_turns=9)
    assert texts(folded(records(rollout.path), 20)) == []


@pytest.mark.parametrize(
    "text",
    [
        "<environment_context>\n<cwd>/w</cwd>\n</environment_context>",
        "<turn_aborted>\nThe user interrupted the previous turn on purpose.\n</turn_aborted>",
        '<subagent_notification>\n{"agent_path":"a"}\n</subagent_notification>',
        "# AGENTS.md instructions for /w\n\n<INSTRUCTIONS>\nbe kind\n</INSTRUCTIONS>",
        "<user_instructions>\nbe kind\n</user_instructions>",
    ],
)
def test_what_codex_writes_in_the_name_of_the_user_is_no_message(rollout, text):
    rollout.message("user", text)
    rollout.message("user", f"why does it say {text}?")
    assert texts(folded(records(rollout.path), KEEP)) == [("user", f"why does it say {text}?")]


def test_the_kinds_of_the_content_decide_where_they_are_told(rollout):
    content = [{"type": "input_text", "text": "<div>"}]
    for kinds in (["user.text"], ["generic.something_new"]):
        passed = {"content_item_kinds": kinds}
        item = {"type": "message", "role": "user", "content": content}
        rollout.write("response_item", item | {"internal_chat_message_metadata_passthrough": passed})
    assert texts(folded(records(rollout.path), KEEP)) == [("user", "<div>")]


def test_a_tool_call_without_a_result_is_the_question(rollout):
    rollout.start_turn("one")
    rollout.call("rm -r x", "it is large", "c1")
    rollout.call("touch y", "", "c2")
    assert folded(records(rollout.path), KEEP).question == "exec_command: rm -r x (it is large)"
    rollout.result("gone", "c1")
    assert folded(records(rollout.path), KEEP).question == "exec_command: touch y"
    rollout.end_turn("done")
    assert folded(records(rollout.path), KEEP).question == ""


def test_a_line_that_is_skimmed_means_what_it_means_parsed(rollout):
    rollout.start_turn("one")
    rollout.call("cat x")
    rollout.result("y" * 100_000)
    rollout.write("compacted", {"message": "m", "replacement_history": []})
    rollout.write("something_new", {"type": "message", "role": "user"})
    rollout.end_turn("two")
    lines = rollout.path.read_bytes().splitlines()
    skimmed = [record if (record := skim(line)) is not None else json.loads(line) for line in lines]
    assert sum(record == {} for record in skimmed) >= 3
    one, two = folded(skimmed, KEEP), folded(records(rollout.path), KEEP)
    assert (one.messages, one.turn, one.ending) == (two.messages, two.turn, two.ending)


@pytest.mark.parametrize(
    "thread", ["../../etc/passwd", "", "x" * 36, "01A1FDB3-8ADE-72B1-99E6-4AC5398602B0", None]
)
def test_a_thread_id_that_is_no_uuid_is_no_session(thread):
    assert meta_of({"type": "session_meta", "payload": {"id": thread}}) is None


def test_the_first_description_counts_and_not_the_copies_of_a_fork(tmp_path, rollout):
    copied = meta_of(records(rollout.path)[0])
    fork = RolloutWriter(tmp_path, directory="/fork")
    fork.begin(forked_from_id=copied.thread)
    fork.write("session_meta", records(rollout.path)[0]["payload"])
    found = Threads(tmp_path, owner=tmp_path.stat().st_uid, keep=KEEP).look().threads
    assert {(one.id, one.directory) for one in found} == {(fork.thread, "/fork"), (rollout.thread, "/w")}


# Any file.

STEPS = st.lists(
    st.sampled_from(
        ["turn", "prompt", "answer", "end", "late end", "abort", "rollback", "call", "result", "other"]
    ),
    max_size=25,
)


def play(writer, steps):
    """Write a session. Every text in it is unique and starts with its role."""
    for number, step in enumerate(steps):
        turn = writer.turns[-1] if writer.turns else "none"
        match step:
            case "turn":
                writer.start_turn(f"user {number} é 你好")
            case "prompt":
                writer.message("user", f"user {number}")
            case "answer":
                writer.message("assistant", f'agent {number} \\ " \u2028')
            case "end":
                writer.end_turn(f"agent {number}") if writer.turns else None
            case "late end":
                writer.event("task_complete", turn_id=writer.turns[0] if writer.turns else "x")
            case "abort":
                writer.event("turn_aborted", turn_id=turn, reason="interrupted")
            case "rollback":
                writer.event("thread_rolled_back", num_turns=1 + number % 3)
            case "call":
                writer.call(f"call {number}", call=f"c{number}")
            case "result":
                writer.result("x" * 50 * number, f"c{number - 1}")
            case "other":
                writer.write("brand_new", {"role": "user", "type": "message", "text": "user not said"})


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    numbers, root = itertools.count(), tmp_path_factory.mktemp("codex")

    def fresh():
        path = root / str(next(numbers))
        path.mkdir()
        return path

    return fresh


@pytest.mark.property
@settings(max_examples=60)
@given(steps=STEPS, data=st.data())
def test_following_in_any_steps_gives_what_a_whole_read_gives(sandbox, steps, data):
    source, home = sandbox(), sandbox()
    writers = [RolloutWriter(source, thread=f"{n}1a1fdb3-8ade-72b1-99e6-4ac5398602b0") for n in range(2)]
    for writer, part in zip(writers, (steps, steps[::-1]), strict=True):
        writer.begin()
        play(writer, part)
    whole = {writer.path.relative_to(source): writer.path.read_bytes() for writer in writers}
    following = Threads(home, owner=home.stat().st_uid, keep=KEEP)
    written, block = dict.fromkeys(whole, 0), data.draw(st.sampled_from([300, 2000, 10**6]))
    for _ in range(data.draw(st.integers(1, 6))):
        path = data.draw(st.sampled_from(sorted(whole)))
        end = data.draw(st.integers(written[path], len(whole[path])))
        append(home / path, whole[path][written[path] : end])
        written[path] = end
        look(following)
        assert state(following.look()) == state(read_whole(home, block))
    for path, start in written.items():
        append(home / path, whole[path][start:])
    look(following)
    assert state(following.look()) == state(read_whole(source, block))
    for thread in following.look().threads:
        number = [writer.thread for writer in writers].index(thread.id)
        lines = records(writers[number].path)
        every = folded(lines, 100)
        assert thread.messages == every.messages[-KEEP:]


def read_whole(home, block):
    """Backwards, with a first block of that size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_file, "BLOCK_BYTES", block)
        patch.setattr(session_file, "BLOCK_MAX_BYTES", 2 * block)
        return Threads(home, owner=home.stat().st_uid, keep=KEEP).look()


def look(following):
    following._files._listed_at = float("-inf")  # a test does not wait for the next look at the folders
    following._files._touched_at = float("-inf")
    following.look()


def append(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as out:
        out.write(data)


def state(found):
    return sorted(
        (
            one.id,
            one.messages,
            one.turn_at,
            one.ending if one.turn_at is None else "",
            one.directory,
            one.prompted_at,
        )
        for one in found.threads
    )


@pytest.mark.property
@settings(max_examples=60)
@given(steps=STEPS, data=st.data())
def test_damage_never_raises_and_never_invents_a_message(sandbox, steps, data):
    home = sandbox()
    writer = RolloutWriter(home)
    writer.begin()
    play(writer, steps)
    lines = records(writer.path)
    said = [
        part["text"]
        for record in lines
        if record["type"] == "response_item"
        for part in record["payload"].get("content", ())
    ]
    damaged = bytearray(writer.path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(damaged)))
        match data.draw(st.sampled_from(["cut", "lose", "insert", "swap"])):
            case "cut":
                del damaged[at:]
            case "lose":
                del damaged[at : at + data.draw(st.integers(1, 400))]
            case "insert":
                damaged[at:at] = data.draw(
                    st.sampled_from([b"\n", b"\0", b'{"type":', b"\xff\n", b"{}\n", b"[" * 5000])
                )
            case "swap":
                damaged[at:] = bytes(reversed(damaged[at:]))
    writer.path.write_bytes(damaged)
    following = Threads(home, owner=home.stat().st_uid, keep=100)
    for one in following.look().threads:
        for message in one.messages:
            assert any(message.content in text for text in said)


@pytest.mark.property
@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "payload",
                        "timestamp",
                        "role",
                        "content",
                        "text",
                        "id",
                        "turn_id",
                        "num_turns",
                        "error",
                    ]
                ),
                inner
                | st.sampled_from(
                    [
                        "message",
                        "user",
                        "event_msg",
                        "response_item",
                        "task_started",
                        "thread_rolled_back",
                        "input_text",
                    ]
                ),
                max_size=5,
            )
        ),
        max_leaves=15,
    )
)
def test_a_record_of_any_shape_is_taken_in(value):
    record = value if isinstance(value, dict) else {"type": "event_msg", "payload": value}
    result = folded([record, {"type": "response_item", "payload": value}], KEEP)
    assert all(isinstance(message.content, str) for message in result.messages)
    meta_of(record)
    skim(json.dumps(record).encode())


def test_at_most_eight_files_are_opened_in_one_look(tmp_path, monkeypatch):
    for _ in range(20):
        writer = RolloutWriter(tmp_path)
        writer.begin()
    opened = []
    read = threads._Followed.read
    monkeypatch.setattr(
        threads._Followed, "read", lambda self, *rest: (opened.append(self.path), read(self, *rest))[1]
    )
    found = Threads(tmp_path, owner=tmp_path.stat().st_uid, keep=KEEP)
    found.look()
    assert len(opened) == 8
    found.look()
    assert len(opened) == 8, "a file that has not changed is not opened again"
