import os

import pytest
import structlog

from agentd import log
from agentd.coderd.token import FILE_MAX_BYTES, FileToken, StaticToken
from agentd.errors import ConfigError

OLD, NEW = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


async def test_a_token_of_the_environment_stays():
    source = StaticToken(OLD)
    assert await source.current() == OLD
    assert not await source.renew(OLD)
    assert await source.renew(NEW), "rejected was another one: the current may do"
    assert log.masked(OLD) == log.MASK


@pytest.mark.parametrize("written", [OLD, f"{OLD}\n", f" {OLD}\r\n", f"\ufeff{OLD}\n"])
async def test_a_token_is_what_its_file_holds_without_the_space_around(tmp_path, written):
    path = tmp_path / "token"
    path.write_text(written)
    assert await FileToken(path).current() == OLD


async def test_a_401_reads_the_file_again(tmp_path):
    path = tmp_path / "token"
    path.write_text(OLD)
    source = FileToken(path)
    assert not await source.renew(OLD)
    path.write_text(NEW)
    assert await source.current() == OLD, "only a refusal or a SIGHUP reads again"
    assert await source.renew(OLD)
    assert await source.current() == NEW
    assert log.masked(NEW) == log.MASK


@pytest.mark.parametrize("becomes", ["", "missing", "two\nlines", "x" * (FILE_MAX_BYTES + 1)])
async def test_a_file_being_replaced_does_not_cost_the_token(tmp_path, becomes):
    path = tmp_path / "token"
    path.write_text(OLD)
    source = FileToken(path)
    if becomes == "missing":
        path.unlink()
    else:
        path.write_text(becomes)
    with structlog.testing.capture_logs() as logged:
        assert not await source.renew(OLD)
    assert [record["event"] for record in logged] == ["token.unreadable"]
    assert await source.current() == OLD


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"hunter2\nhunter2", "contains characters that are not allowed in a header"),
        (b"hunter2\0", "contains characters that are not allowed in a header"),
        ("hünter2".encode(), "contains characters that are not allowed in a header"),
        (b"\xffhunter2", "contains characters that are not allowed in a header"),
        (b"hunter2" * 1000, f"is longer than {FILE_MAX_BYTES} bytes"),
    ],
)
def test_a_file_that_holds_no_token_is_refused_without_quoting_it(tmp_path, content, said):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        FileToken(path)
    assert caught.value.message.startswith(f"coder.token_file: {path} {said}")
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"token cannot be read: No such file or directory; check the path"):
        FileToken(tmp_path / "token")


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read: not a regular file"):
            FileToken(path)
    with pytest.raises(ConfigError, match="cannot be read: not a regular file"):
        FileToken(type(tmp_path)("/dev/zero"))
