import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentd import config, proxy
from agentd.cli import installation, main
from agentd.cli.installation import Places
from agentd.errors import ExitCode

UNIT = "etc/systemd/system/agentd.service"
ENV = "etc/agentd/agentd.env"
needs_analyze = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty root directory, and a program that the sandbox of the unit does not hide."""
    monkeypatch.setattr(sys, "argv", ["/bin/true"])
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def install(root: Path, *more: str) -> int:
    return main(["install", "--root", str(root), *more])


def uninstall(root: Path, *more: str) -> int:
    return main(["uninstall", "--root", str(root), *more])


def test_install_writes_units_settings_and_the_hooks_directory(root: Path) -> None:
    assert install(root) == ExitCode.OK
    assert set(files(root)) == {
        UNIT,
        "etc/systemd/system/agentd-token.path",
        "etc/systemd/system/agentd-token.service",
        ENV,
    }
    assert "ExecStart=/bin/true run\n" in (root / UNIT).read_text()
    assert (root / "etc/agentd/hooks/on-claim.d").is_dir()
    assert (root / ENV).stat().st_mode & 0o777 == 0o600
    assert (root / UNIT).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("user", [False, True])
def test_the_modes_of_an_installation_do_not_depend_on_the_umask(
    root: Path, monkeypatch: pytest.MonkeyPatch, user: bool, umask: int
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    before = os.umask(umask)
    try:
        assert install(root, *(["--user"] if user else ["--run-as", "ada"])) == ExitCode.OK
    finally:
        os.umask(before)
    pieces = installation.pieces(
        Places.choose(user=user, root=root), program="", run_as="" if user else "ada"
    )
    modes = {piece.path: piece.mode for piece in pieces}
    found = {path: path.stat().st_mode & 0o7777 for path in root.rglob("*")}
    assert found == {path: 0o755 if path.is_dir() else modes[path] for path in found}
    assert found.keys() >= modes.keys()


def test_install_keeps_the_mode_of_an_existing_directory_and_of_a_replaced_file(root: Path) -> None:
    (root / "etc/agentd").mkdir(parents=True)
    (root / "etc/agentd").chmod(0o700)
    (root / ENV).write_text("TOKEN=x\n")
    (root / ENV).chmod(0o640)
    before = os.umask(0)
    try:
        assert install(root, "--force") == ExitCode.OK
    finally:
        os.umask(before)
    assert (root / "etc/agentd").stat().st_mode & 0o777 == 0o700
    assert (root / f"{ENV}.old").stat().st_mode & 0o777 == 0o640


def test_install_again_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    capsys.readouterr()
    assert install(root) == ExitCode.OK
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert "written" not in capsys.readouterr().out


def test_install_with_an_edited_unit_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(root)
    (root / UNIT).write_text((root / UNIT).read_text().replace("WatchdogSec=30", "WatchdogSec=3"))
    (root / ENV).unlink()
    before = files(root)
    assert install(root) == ExitCode.FAILED
    assert files(root) == before
    error = capsys.readouterr().err
    assert str(root / UNIT) in error
    assert "--force" in error


def test_force_replaces_an_edited_file_and_keeps_the_edit(root: Path) -> None:
    install(root)
    fresh = (root / UNIT).read_text()
    (root / UNIT).write_text("mine\n")
    assert install(root, "--force") == ExitCode.OK
    assert (root / UNIT).read_text() == fresh
    assert (root / f"{UNIT}.old").read_text() == "mine\n"


def test_an_upgrade_keeps_an_edited_environment_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(root)
    (root / ENV).write_text("CODER_AGENT_URL=https://coder.test\n")
    assert install(root) == ExitCode.OK
    assert (root / ENV).read_text() == "CODER_AGENT_URL=https://coder.test\n"
    assert f"kept       {root / ENV}" in capsys.readouterr().out


def test_a_unit_of_an_older_version_is_replaced_without_force(root: Path) -> None:
    install(root)
    fresh = (root / UNIT).read_text()
    (root / UNIT).write_text(installation._marked("[Service]\nExecStart=/an/older/agentd run\n"))
    assert install(root) == ExitCode.OK
    assert (root / UNIT).read_text() == fresh


def test_a_unit_without_a_mark_counts_as_changed(root: Path) -> None:
    (root / UNIT).parent.mkdir(parents=True)
    (root / UNIT).write_bytes(b"[Service]\nExecStart=/bin/false # \xff\n")
    assert install(root) == ExitCode.FAILED
    assert (root / UNIT).read_bytes().startswith(b"[Service]\nExecStart=/bin/false")


def test_uninstall_removes_every_installed_file_and_directory(root: Path) -> None:
    (root / "etc/systemd/system").mkdir(parents=True)
    install(root, "--run-as", "coder")
    assert uninstall(root) == ExitCode.OK
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) == [
        "etc",
        "etc/systemd",
        "etc/systemd/system",
    ]


def test_uninstall_keeps_state_settings_token_and_hooks(root: Path) -> None:
    install(root)
    kept = {
        ENV: "CODER_AGENT_URL=https://coder.test\n",
        "etc/agentd/token": "secret",
        "etc/agentd/hooks/on-claim.d/10-mine": "#!/bin/sh\n",
        "var/lib/agentd/ledger": "claims",
    }
    for name, text in kept.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert uninstall(root) == ExitCode.OK
    assert files(root) == kept


def test_purge_removes_state_settings_and_token_but_no_hook(root: Path) -> None:
    install(root)
    hook = "etc/agentd/hooks/on-claim.d/10-mine"
    private = root / "var/lib/private/agentd"
    private.mkdir(parents=True)
    (private / "ledger").write_text("claims")
    (root / "var/lib/agentd").symlink_to("private/agentd")
    for name in (ENV, "etc/agentd/token", hook):
        (root / name).write_text("changed")
    assert uninstall(root, "--purge") == ExitCode.OK
    assert files(root) == {hook: "changed"}
    assert not (root / "var/lib/agentd").is_symlink()


def test_uninstall_renames_an_edited_unit(root: Path) -> None:
    install(root)
    (root / UNIT).write_text("mine\n")
    assert uninstall(root) == ExitCode.OK
    assert files(root) == {f"{UNIT}.old": "mine\n"}


def test_uninstall_without_an_installation_exits_with_0(root: Path) -> None:
    assert uninstall(root) == ExitCode.OK


def test_user_install_uses_the_directories_of_the_user(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert install(root, "--user") == ExitCode.OK
    assert set(files(root)) == {
        "home/ada/.config/systemd/user/agentd.service",
        "home/ada/.config/agentd/agentd.env",
    }
    assert "/etc/agentd" not in (root / "home/ada/.config/agentd/agentd.env").read_text()
    assert (root / "home/ada/.config/agentd/hooks/on-claim.d").is_dir()
    assert uninstall(root, "--user") == ExitCode.OK
    assert files(root) == {}


def test_print_prints_a_file_and_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(root)
    written = files(root)
    shutil.rmtree(root / "etc")
    capsys.readouterr()
    assert install(root, "--print") == ExitCode.OK
    assert capsys.readouterr().out == written[UNIT]
    assert install(root, "--print", "env") == ExitCode.OK
    assert capsys.readouterr().out == written[ENV]
    assert files(root) == {}


def test_a_program_that_the_sandbox_hides_is_an_error_and_nothing_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/ada/.local/bin/agentd"])
    monkeypatch.setattr(os, "access", lambda *_: True)
    assert install(root) == ExitCode.FAILED
    assert "/home/ada/.local/bin/agentd" in capsys.readouterr().err
    assert files(root) == {}
    assert install(root, "--run-as", "ada") == ExitCode.OK


@pytest.mark.parametrize("name", ["", "root\nExecStartPre=/bin/sh", "../x", "a b", "%n"])
def test_run_as_accepts_only_user_names(root: Path, name: str) -> None:
    install(root, "--run-as", name)
    assert "User=root" not in "".join(files(root).values())
    assert not (root / "etc/systemd/system/agentd.service.d").exists()


def test_run_as_with_user_is_an_error(root: Path) -> None:
    assert install(root, "--user", "--run-as", "ada") == ExitCode.FAILED


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_install_without_root_is_an_error() -> None:
    assert main(["install"]) == ExitCode.FAILED


@pytest.mark.parametrize(
    ("argv0", "command"),
    [
        ("/bin/true", "/bin/true"),
        ("/nowhere/agentd/__main__.py", f"{sys.executable} -m agentd"),
    ],
)
def test_the_unit_starts_the_program_that_installed_it(argv0: str, command: str) -> None:
    assert installation.program(argv0) == command


def test_special_characters_in_the_programs_path_are_escaped(tmp_path: Path) -> None:
    odd = tmp_path / 'a "b" 100%' / "agentd"
    odd.parent.mkdir()
    odd.write_text("#!/bin/sh\n")
    odd.chmod(0o755)
    assert installation.program(str(odd)).endswith('/a \\"b\\" 100%%/agentd"')


def test_every_setting_named_in_the_environment_file_exists() -> None:
    named = set(re.findall(r"^#?([A-Z][A-Z_]+)=", installation._source("agentd.env"), re.MULTILINE))
    keys = {name for key in config.keys().values() for name in key.env}
    proxies = {*(name for names in proxy.NAMES.values() for name in names), "NO_PROXY"}
    assert named
    assert named <= keys | proxies


def test_a_fresh_environment_file_sets_nothing() -> None:
    assert all(line.startswith("#") or not line for line in installation._source("agentd.env").splitlines())


def rendered(root: Path, *more: str) -> Path:
    install(root, *more)
    return root / "etc/systemd/system"


@needs_analyze
@pytest.mark.parametrize("run_as", [[], ["--run-as", "root"]])
def test_systemd_accepts_the_units(root: Path, run_as: list[str]) -> None:
    units = rendered(root, *run_as)
    # `verify` returns 0 for unknown keys and prints a warning, so check its output.
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", units / "agentd.service", units / "agentd-token.path"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_analyze
def test_systemd_accepts_the_unit_files_of_the_repository() -> None:
    shipped = Path(__file__).parents[2] / "systemd"
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", shipped / "agentd.service", shipped / "agentd-token.path"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_analyze
def test_systemd_accepts_the_user_unit(root: Path, tmp_path: Path) -> None:
    unit = tmp_path / "agentd.service"
    text = installation.pieces(Places.choose(user=True, root=root), program="/bin/true")[0].text
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_analyze
def test_the_exposure_of_the_system_unit_is_at_most_2_of_10(root: Path) -> None:
    units = rendered(root)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", units / "agentd.service"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stdout[-400:]
