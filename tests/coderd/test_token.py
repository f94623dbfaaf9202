import os

import pytest
import structlog

from agentd import log
from agentd.coderd.token import FILE_MAX_BYTES, FileToken, StaticToken
from agentd.errors import ConfigError

OLD, NEW = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


async def test_a_static_token_does_not_change():
    source = StaticToken(OLD)
    assert await source.current() == OLD
    assert not await source.renew(OLD)
    assert await source.renew(NEW), "another token was rejected, so the current one may be valid"
    assert log.masked(OLD) == log.MASK


@pytest.mark.parametrize("written", [OLD, f"{OLD}\n", f" {OLD}\r\n", f"\ufeff{OLD}\n"])
async def test_white_space_and_a_bom_around_the_token_are_removed(tmp_path, written):
    path = tmp_path / "token"
    path.write_text(written)
    assert await FileToken(path).current() == OLD


async def test_a_401_reads_the_file_again(tmp_path):
    path = tmp_path / "token"
    path.write_text(OLD)
    source = FileToken(path)
    assert not await source.renew(OLD)
    path.write_text(NEW)
    assert await source.current() == OLD, "the file is read again only after a 401 or SIGHUP"
    assert await source.renew(OLD)
    assert await source.current() == NEW
    assert log.masked(NEW) == log.MASK


@pytest.mark.parametrize("becomes", ["", "missing", "two\nlines", "x" * (FILE_MAX_BYTES + 1)])
async def test_the_old_token_stays_while_the_file_is_invalid(tmp_path, becomes):
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
    ("content", "text"),
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
def test_a_file_without_a_valid_token_is_an_error_that_does_not_quote_it(tmp_path, content, text):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        FileToken(path)
    assert caught.value.message.startswith(f"coder.token_file: {path} {text}")
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_is_an_error_with_its_path(tmp_path):
    with pytest.raises(ConfigError, match=r"token cannot be read: No such file or directory; check the path"):
        FileToken(tmp_path / "token")


def test_a_fifo_a_directory_and_a_device_are_errors_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read: not a regular file"):
            FileToken(path)
    with pytest.raises(ConfigError, match="cannot be read: not a regular file"):
        FileToken(type(tmp_path)("/dev/zero"))
