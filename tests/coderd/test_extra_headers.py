"""`coder.headers` and `coder.header_command`: what is run, parsed, bounded, masked and repeated."""

import asyncio
from pathlib import Path

import pytest

from agentd import log
from agentd.coderd import extra_headers
from agentd.coderd.errors import HeaderCommandError
from agentd.coderd.extra_headers import ExtraHeaders


def command(text: str, **headers: str) -> ExtraHeaders:
    return ExtraHeaders(headers, command=text, coder_url="https://coder.example")


async def test_without_a_command_the_headers_are_those_of_the_configuration() -> None:
    headers = ExtraHeaders({"X-A": "configured-value"})
    await headers.renew()
    assert await headers.current() == {"X-A": "configured-value"}
    assert log.masked("configured-value") == "[hidden]"


async def test_the_command_runs_in_a_shell_with_the_url_of_coderd() -> None:
    text = r"""printf 'X-Url=%s\r\n\nX-B=a=b \n' "$CODER_URL"; printf 'X-Last=1'; echo noise >&2"""
    headers = await command(text, x_url="replaced").current()
    assert headers == {"x_url": "replaced", "X-Url": "https://coder.example", "X-B": "a=b ", "X-Last": "1"}


async def test_a_printed_header_replaces_the_configured_one_of_the_same_name() -> None:
    assert await command("echo X-AUTH=new", **{"x-auth": "old", "x-b": "1"}).current() == {
        "X-AUTH": "new",
        "x-b": "1",
    }


async def test_printed_values_are_secrets() -> None:
    await command("echo 'X-Auth=Bearer hunter2hunter2'").current()
    assert log.masked("Bearer hunter2hunter2") == "[hidden]"


async def test_the_command_runs_once_and_again_at_a_renewal(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    headers = command(f"echo x >> {runs}; echo X-Runs=$(wc -l < {runs})")
    found = await asyncio.gather(*(headers.current() for _ in range(5)))
    assert found == [{"X-Runs": "1"}] * 5
    await headers.renew()
    assert await headers.current() == {"X-Runs": "2"}


async def test_a_failed_renewal_keeps_the_headers_and_a_failed_first_run_is_repeated(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    headers = command(f"test -e {ready} && echo X-A=1")
    with pytest.raises(HeaderCommandError):
        await headers.current()
    ready.touch()
    assert await headers.current() == {"X-A": "1"}
    ready.unlink()
    with pytest.raises(HeaderCommandError):
        await headers.renew()
    assert await headers.current() == {"X-A": "1"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("exit 3", "exit 3"),
        ("kill -9 $$", "killed by signal 9"),
        ("no-such-program-at-all", "exit 127"),
        ("echo X-A=1; echo hunter2hunter2", "line 2 of its output is not Name=value"),
        ("echo 'X A=hunter2hunter2'", "line 1 of its output is not Name=value"),
        ("printf 'X-A=hunter2hunter2\\001\\n'", "line 1 of its output is not Name=value"),
        ("echo Coder-Session-Token=hunter2hunter2", "names Coder-Session-Token, which agentd sets itself"),
        ("yes X-A=hunter2hunter2", "prints more than 65536 bytes"),
        ("sleep 60 & sleep 60", "did not end within 0.2 s"),
    ],
)
async def test_a_failure_is_a_named_error_without_the_output(
    text: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extra_headers, "TIMEOUT_S", 0.2 if "sleep" in text else 10.0)
    with pytest.raises(HeaderCommandError) as caught:
        await command(text).current()
    assert str(caught.value).startswith("coder.header_command: ")
    assert fault in caught.value.message
    assert "sh -c" in caught.value.hint
    assert "hunter2" not in str(caught.value)
    assert caught.value.retryable
