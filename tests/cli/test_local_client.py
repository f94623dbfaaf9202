import os
from pathlib import Path

import pytest

from agentd import config
from agentd.cli.local_client import daemon_socket


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def listens(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def settings(tmp_path: Path, **environ: str) -> config.Config:
    home = {"HOME": str(tmp_path / "home"), **environ}
    return config.load(environ=home, system_file=tmp_path / "none.toml")


@pytest.fixture(autouse=True)
def not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def test_a_configured_socket_is_used(tmp_path: Path, run: Path) -> None:
    listens(run / "agentd" / "agentd.sock")
    chosen = settings(tmp_path, AGENTD_LOCAL_API_SOCKET=str(tmp_path / "mine.sock"))
    assert daemon_socket(chosen, environ={}, run=run) == tmp_path / "mine.sock"


def test_with_a_configured_state_directory_the_socket_is_in_it(tmp_path: Path, run: Path) -> None:
    listens(run / "agentd" / "agentd.sock")
    chosen = settings(tmp_path, AGENTD_STATE_DIR=str(tmp_path / "mine"))
    assert daemon_socket(chosen, environ={}, run=run) == tmp_path / "mine" / "agentd.sock"


def test_the_socket_in_the_default_state_directory_precedes_a_service(tmp_path: Path, run: Path) -> None:
    listens(run / "agentd" / "agentd.sock")
    own = listens(tmp_path / "home/.local/state/agentd/agentd.sock")
    assert daemon_socket(settings(tmp_path), environ={}, run=run) == own


def test_the_user_service_precedes_the_system_service(tmp_path: Path, run: Path) -> None:
    system = listens(run / "agentd" / "agentd.sock")
    assert daemon_socket(settings(tmp_path), environ={}, run=run) == system
    mine = listens(tmp_path / "user" / "agentd" / "agentd.sock")
    assert (
        daemon_socket(settings(tmp_path), environ={"XDG_RUNTIME_DIR": str(tmp_path / "user")}, run=run)
        == mine
    )


def test_without_any_socket_the_default_path_is_returned(tmp_path: Path, run: Path) -> None:
    own = tmp_path / "home/.local/state/agentd/agentd.sock"
    assert daemon_socket(settings(tmp_path), environ={}, run=run) == own
