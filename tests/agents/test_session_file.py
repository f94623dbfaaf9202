"""Reading a JSON Lines file that another program appends to."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.agents import session_file
from agentd.agents.session_file import SessionFile

pytestmark = pytest.mark.property


def line(number, size=0):
    return json.dumps({"n": number, "text": "x" * size}).encode() + b"\n"


def numbers(read):
    return [record["n"] for record in read.records]


def everything(_records):
    return False


@pytest.fixture
def path(tmp_path):
    return tmp_path / "session.jsonl"


@pytest.fixture
def file(path):
    return SessionFile(path, owner=os.getuid())


def test_the_first_read_has_the_last_records_and_later_ones_what_was_appended(path, file):
    path.write_bytes(b"".join(line(n) for n in range(5)))
    first = file.read(everything)
    assert (numbers(first), first.restarted) == ([0, 1, 2, 3, 4], True)
    assert numbers(file.read(everything)) == []
    with path.open("ab") as out:
        out.write(line(5) + line(6)[:4])
        out.flush()
        second = file.read(everything)
        assert (numbers(second), second.restarted) == ([5], False)
        out.write(line(6)[4:])
    assert numbers(file.read(everything)) == [6]


def test_a_large_file_is_read_backwards_only_until_enough(path, file, monkeypatch):
    monkeypatch.setattr(session_file, "BLOCK_BYTES", 4096)
    path.write_bytes(b"".join(line(n, 1000) for n in range(2000)))
    read = file.read(lambda records: len(records) >= 10)
    assert numbers(read)[-1] == 1999
    assert 10 <= len(read.records) < 40


def test_a_file_that_was_truncated_or_replaced_is_read_again(path, file):
    path.write_bytes(line(0) + line(1))
    file.read(everything)
    path.write_bytes(line(7))
    read = file.read(everything)
    assert (numbers(read), read.restarted) == ([7], True)
    other = path.with_name("other")
    other.write_bytes(line(8) + line(9) + line(10))
    other.replace(path)
    read = file.read(everything)
    assert (numbers(read), read.restarted) == ([8, 9, 10], True)


def test_lines_that_are_no_object_are_skipped_and_counted(path, file):
    deep = b"[" * 100_000 + b"\n"
    path.write_bytes(line(0) + b"{\n7\n\xff\xfe\n" + deep + b'{"a":' + b"9" * 5000 + b"}\n" + line(1))
    read = file.read(everything)
    assert (numbers(read), read.skipped) == ([0, 1], {"json": 5})


@pytest.mark.parametrize("appended", [False, True])
def test_a_line_that_is_too_long_is_skipped_and_counted_once(path, file, monkeypatch, appended):
    monkeypatch.setattr(session_file, "LINE_MAX_BYTES", 1000)
    path.write_bytes(line(0))
    if appended:
        file.read(everything)
    with path.open("ab") as out:
        out.write(line(1, 5000) + line(2))
    skipped, found = 0, []
    for _ in range(10):
        read = file.read(everything)
        skipped += read.skipped.get("long", 0)
        found += numbers(read)
    assert (skipped, found[-1]) == (1, 2)
    assert 1 not in found


@pytest.mark.parametrize("what", ["fifo", "symlink", "directory", "another owner"])
def test_only_a_regular_file_of_the_owner_is_read(path, tmp_path, what):
    owner = os.getuid()
    match what:
        case "fifo":
            os.mkfifo(path)
        case "symlink":
            (tmp_path / "real").write_bytes(line(0))
            path.symlink_to(tmp_path / "real")
        case "directory":
            path.mkdir()
        case "another owner":
            path.write_bytes(line(0))
            owner += 1
    with pytest.raises(OSError):
        SessionFile(path, owner=owner).read(everything)


@given(sizes=st.lists(st.integers(0, 300), max_size=30), cuts=st.lists(st.integers(0, 9000), max_size=8))
def test_any_splitting_of_the_writes_gives_each_record_once(tmp_path_factory, sizes, cuts):
    whole = b"".join(line(n, size) for n, size in enumerate(sizes))
    path = tmp_path_factory.mktemp("split") / "session.jsonl"
    path.touch()
    file = SessionFile(path, owner=os.getuid())
    found = []
    ends = sorted({min(cut, len(whole)) for cut in cuts} | {len(whole)})
    for start, end in zip([0, *ends], ends, strict=False):
        with path.open("ab") as out:
            out.write(whole[start:end])
        read = file.read(everything)
        found = numbers(read) if read.restarted else found + numbers(read)
    assert found == list(range(len(sizes)))


@given(
    sizes=st.lists(st.integers(0, 400), max_size=12),
    tail=st.binary(max_size=500).map(lambda data: data.replace(b"\n", b"")),
    block=st.sampled_from([16, 100, 700]),
    line_max=st.sampled_from([60, 250, 10**6]),
)
def test_reading_backwards_in_any_blocks_gives_every_line_once(
    tmp_path_factory, sizes, tail, block, line_max
):
    lines = [line(n, size) for n, size in enumerate(sizes)]
    path = tmp_path_factory.mktemp("blocks") / "session.jsonl"
    path.write_bytes(b"".join(lines) + tail)
    file = SessionFile(path, owner=os.getuid())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("BLOCK_BYTES", block),
            ("BLOCK_MAX_BYTES", 2 * block),
            ("LINE_MAX_BYTES", line_max),
        ):
            patch.setattr(session_file, name, value)
        read = file.read(everything)
        short = [n for n, one in enumerate(lines) if len(one) - 1 <= line_max]
        assert numbers(read) == short
        assert read.skipped.get("long", 0) == len(lines) - len(short)
        assert read.is_whole
        with path.open("ab") as out:
            out.write(b"\n" + line(99))
        found = [number for _ in range(50) for number in numbers(file.read(everything))]
        assert found == ([99] if len(line(99)) - 1 <= line_max else [])


def test_a_line_that_is_skimmed_is_not_parsed(path):
    path.write_bytes(line(0) + b"left out\n" + b"replaced\n" + line(1) + b"nonsense\n")
    answers = {b"left out": {}, b"replaced": {"n": 7}}
    read = SessionFile(path, owner=os.getuid(), skim=answers.get).read(everything)
    assert (numbers(read), read.skipped) == ([0, 7, 1], {"json": 1})


def test_a_file_is_read_anew_after_a_restart(path, file):
    path.write_bytes(line(0))
    file.read(everything)
    file.restart()
    read = file.read(everything)
    assert (numbers(read), read.restarted) == ([0], True)
