"""Which programs agentd trusts, tried by a real other user, and which environment it gives them."""

import contextlib
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd.clock import Clock
from agentd.config.schema import keys
from agentd.hooks.directory import HookDirectoryError, list_hooks
from agentd.hooks.run import HookOutcome, HookPolicy, HookRun
from agentd.programs import program_environment, untrusted_part, untrusted_reason

STRANGER = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as another user")


# --- trust ---


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users can reach; pytest's own is closed to them."""
    path = Path(tempfile.mkdtemp(prefix="agentd-programs-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def as_stranger(act: Callable[[], bool]) -> int:
    """Start `act` as another user in a child process; its exit code is 1 if `act` returns True."""
    pid = os.fork()
    if pid == 0:
        code = 2
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            code = int(act())
        os._exit(code)
    return pid


def changed_by_stranger(parts: list[Path]) -> bool:
    """True if the other user could replace, rewrite or take over one of `parts`."""

    links = {part for part in parts if part.is_symlink()}

    def act() -> bool:
        changed = False
        for part in parts:
            with contextlib.suppress(OSError):
                part.rename(f"{part}.moved")
                Path(f"{part}.moved").rename(part)
                changed = True
            if part in links:
                continue
            with contextlib.suppress(OSError):
                part.chmod(0o755)
                changed = True
            with contextlib.suppress(OSError):
                os.close(os.open(part, os.O_WRONLY))
                changed = True
            with contextlib.suppress(OSError):
                (part / "new").touch()
                (part / "new").unlink()
                # To add an entry to a sticky directory replaces nothing.
                changed = changed or not part.stat().st_mode & 0o1000
        return changed

    status = os.waitpid(as_stranger(act), 0)[1]
    assert os.waitstatus_to_exitcode(status) in (0, 1)
    return os.waitstatus_to_exitcode(status) == 1


OWNER = st.sampled_from([0, 0, 0, STRANGER])
DIRECTORY = st.tuples(
    st.just("directory"), OWNER, st.sampled_from([0o755, 0o755, 0o777, 0o1777, 0o775, 0o700])
)
LINK = st.tuples(
    st.sampled_from(["absolute link", "relative link", "link over ..", "link to a link"]), OWNER, st.just(0)
)
FILE = st.tuples(st.just("file"), OWNER, st.sampled_from([0o755, 0o755, 0o757, 0o775, 0o700]))


def build(place: Path, steps: list[tuple[str, int, int]]) -> tuple[Path, list[Path]]:
    """A path of these steps. Returns it and every directory, link and file that it leads over."""
    here, asked, parts = place, place, []
    for number, (kind, owner, mode) in enumerate(steps):
        part = here / f"{number}"
        asked /= part.name
        parts.append(part)
        if kind == "directory":
            part.mkdir()
            here = part
        elif kind == "file":
            part.write_text("#!/bin/sh\n")
        else:
            target = place / f"target-{number}"
            target.mkdir()
            inner = here / f"inner-{number}"
            written = {
                "absolute link": str(target),
                "relative link": os.path.relpath(target, here),
                "link to a link": str(place / f"shared-{number}" / "hop"),
                "link over ..": f"{inner.name}/../{os.path.relpath(target, here)}",
            }[kind]
            if kind == "link over ..":
                inner.mkdir()
                parts.append(inner)
            part.symlink_to(written)
            if kind == "link to a link":
                # In a sticky directory, whose entries only their owner can replace.
                part = Path(written)
                part.parent.mkdir()
                part.parent.chmod(0o1777)
                part.symlink_to(target)
                parts.append(part)
            parts.append(target)
            here = target
        os.chown(part, owner, owner, follow_symlinks=False)
        if kind in ("directory", "file"):
            part.chmod(mode)
    return asked, parts


@needs_root
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(DIRECTORY | LINK, max_size=4), last=FILE)
def test_what_another_user_can_change_is_never_trusted(
    place: Path, steps: list[tuple[str, int, int]], last: tuple[str, int, int]
) -> None:
    root = place / uuid.uuid4().hex
    root.mkdir(mode=0o755)
    asked, parts = build(root, [*steps, last])
    reason = untrusted_reason(asked)
    assert reason or not changed_by_stranger(parts)
    # A file of root below directories and links of root that only root may write is trusted.
    if all(owner == 0 and mode in (0, 0o755, 0o700, 0o1777) for _, owner, mode in [*steps, last]):
        assert reason == ""


@needs_root
@pytest.mark.parametrize(
    "layout", ["his link in a sticky directory", "his directory", "my link in a sticky directory"]
)
async def test_no_program_of_another_user_runs_while_that_user_swaps_links(place: Path, layout: str) -> None:
    for name, text in (("mine", "mine"), ("his", "his")):
        (place / name).mkdir()
        program = place / name / "program"
        program.write_text(f"#!/bin/sh\necho {text} >> {place}/runs\n")
        program.chmod(0o755)
    os.chown(place / "his", STRANGER, STRANGER)
    os.chown(place / "his" / "program", STRANGER, STRANGER)
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "current"
    link.symlink_to(place / "mine")
    if layout == "his directory":
        os.chown(shared, STRANGER, STRANGER)
    if layout != "my link in a sticky directory":
        os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    hooks = place / "hooks"
    hooks.mkdir()
    (hooks / "10-hook").symlink_to(link / "program")

    def swap() -> bool:
        while True:
            for name in ("his", "mine"):
                with contextlib.suppress(OSError):
                    (shared / "new").unlink(missing_ok=True)
                    (shared / "new").symlink_to(place / name)
                    (shared / "new").rename(link)

    swapping = as_stranger(swap)
    try:
        policy = HookPolicy(hooks, place, {})
        outcomes = set()
        for _ in range(30):
            env = {"PATH": "/usr/bin:/bin", "AGENTD_RUN_ID": uuid.uuid4().hex}
            run = HookRun(hooks / "10-hook", policy=policy, env=env, clock=Clock())
            outcomes.add((await run.execute()).outcome)
    finally:
        os.kill(swapping, signal.SIGKILL)
        os.waitpid(swapping, 0)
    runs = (place / "runs").read_text().split() if (place / "runs").exists() else []
    assert "his" not in runs
    if layout == "my link in a sticky directory":
        assert (outcomes, len(runs)) == ({HookOutcome.SUCCEEDED}, 30)
    else:
        assert outcomes == {HookOutcome.REFUSED}


@needs_root
def test_a_hooks_directory_behind_the_link_of_another_user_is_refused_also_if_the_link_leads_nowhere(
    place: Path,
) -> None:
    link = place / "link"
    link.symlink_to(place / "absent")
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(HookDirectoryError, match=f"{link} belongs to uid {STRANGER}"):
        list_hooks(link / "on-claim.d")


def test_a_loop_of_links_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "Too many levels of symbolic links" in untrusted_reason(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        untrusted_part(tmp_path / "absent")


# --- environment ---

TOKEN_NAMES = (
    "CODER_AGENT_TOKEN", "CODER_AGENT_TOKEN_FILE", "AGENTD_CODER_TOKEN", "AGENTD_CODER_TOKEN_FILE",
    "CREDENTIALS_DIRECTORY",
)  # fmt: skip
OTHER_SECRETS = (
    "CODER_AGENT_HEADER", "CODER_AGENT_HEADER_COMMAND", "CODER_AGENT_HEADERS", "AGENTD_CODER_HEADERS",
    "AGENTD_CODER_HEADER_COMMAND", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID",
    "LISTEN_FDNAMES", "API_KEY",
)  # fmt: skip
KEPT = (
    "PATH",
    "HOME",
    "HTTPS_PROXY",
    "CODER_AGENT_URL",
    "CODER_WORKSPACE_ID",
    "AGENTD_STATE_DIR",
    "API_KEY_2",
)


@pytest.mark.parametrize("pass_token", [False, True])
@pytest.mark.parametrize("name", [*TOKEN_NAMES, *OTHER_SECRETS, *KEPT])
def test_a_program_gets_each_variable_or_not(name: str, pass_token: bool) -> None:
    found = program_environment({name: "value-of-it"}, redact=("API_KEY",), pass_token=pass_token)
    assert (name in found) == (name in KEPT or (pass_token and name in TOKEN_NAMES))


def test_no_variable_of_a_secret_key_reaches_a_program() -> None:
    names = [name for key in keys().values() if key.secret for name in key.env]
    assert names
    assert program_environment(dict.fromkeys(names, "value-of-it")) == {}


NAMES = st.sampled_from([*TOKEN_NAMES, *OTHER_SECRETS, *KEPT, "COPY", "DSN"])
SECRETS = ("token-0001", "key-000002")


@given(
    environ=st.dictionaries(
        NAMES, st.sampled_from([*SECRETS, "/a/path", *(f"x://u:{one}@h" for one in SECRETS)])
    ),
)
def test_a_secret_reaches_no_program_under_any_name(environ: dict[str, str]) -> None:
    environ = {**environ, "CODER_AGENT_TOKEN": SECRETS[0], "API_KEY": SECRETS[1]}
    found = program_environment(environ, redact=("API_KEY",))
    assert not [name for name, value in found.items() if any(secret in value for secret in SECRETS)]
    assert found.keys() <= {*KEPT, "COPY", "DSN"}


def test_a_short_or_empty_value_withholds_no_other_variable() -> None:
    environ = {"CODER_AGENT_TOKEN": "", "API_KEY": "a", "HOME": "/home/a"}
    assert program_environment(environ, redact=("API_KEY", "ABSENT")) == {"HOME": "/home/a"}
