"""The templates under deploy/ are valid for their tools and match agentd's settings."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from agentd import config

DEPLOY = Path(__file__).parents[2] / "deploy"
MODULE = DEPLOY / "terraform"
SCRIPTS = [
    MODULE / "start.sh",
    MODULE / "stop.sh",
    DEPLOY / "s6/s6-rc.d/agentd/run",
    DEPLOY / "s6/s6-rc.d/agentd/finish",
]


def tool(name: str) -> str:
    path = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def hcl(path: Path) -> dict[str, Any]:
    hcl2 = pytest.importorskip("hcl2", reason="python-hcl2 is not installed")
    with path.open() as file:
        return json.loads(json.dumps(hcl2.load(file)))


def text(value: object) -> str:
    return json.dumps(value)


def pod() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    document = yaml.safe_load((DEPLOY / "kubernetes/native-sidecar.yaml").read_text())
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("path", sorted(MODULE.rglob("*.tf")), ids=lambda path: str(path.relative_to(MODULE)))
def test_terraform_files_parse(path: Path) -> None:
    assert hcl(path)


def test_terraform_files_are_formatted() -> None:
    done = subprocess.run(
        [tool("terraform"), "fmt", "-check", "-recursive", MODULE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_task_id_is_passed_only_in_a_task() -> None:
    (local,) = hcl(MODULE / "main.tf")["locals"]
    assert "data.coder_task.me.enabled ? data.coder_task.me.id" in text(local["task_id"])
    uses = re.findall(r"coder_task\.me\.id", (MODULE / "main.tf").read_text())
    assert len(uses) == 1


def test_the_module_has_a_start_script_and_a_stop_script_with_a_timeout() -> None:
    resources = {
        name.strip('"'): body for one in hcl(MODULE / "main.tf")["resource"] for name, body in one.items()
    }
    assert set(resources) == {"coder_script"}
    scripts = {
        name.strip('"'): body
        for one in hcl(MODULE / "main.tf")["resource"]
        for kind in one.values()
        for name, body in kind.items()
    }
    assert scripts["start"]["run_on_start"] is True
    assert scripts["stop"]["run_on_stop"] is True
    assert "timeout" in scripts["stop"]


@pytest.mark.parametrize("name", ["docker", "kubernetes"])
def test_the_examples_use_the_stop_timeout_of_the_module(name: str) -> None:
    example = (MODULE / "examples" / name / "main.tf").read_text()
    wanted = {
        "docker": ["stop_timeout", "destroy_grace_seconds"],
        "kubernetes": ["termination_grace_period_seconds"],
    }
    for setting in wanted[name]:
        assert re.search(rf"{setting}\s+= module\.agentd\.grace_s", example)


@pytest.mark.parametrize(
    "path", [MODULE / "main.tf", DEPLOY / "kubernetes/native-sidecar.yaml"], ids=lambda path: path.name
)
def test_every_setting_in_the_templates_exists(path: Path) -> None:
    known = {name for key in config.keys().values() for name in key.env}
    named = set(re.findall(r"\b(AGENTD_[A-Z_]+[A-Z]|CODER_AGENT_[A-Z]+)\b", path.read_text()))
    assert named
    assert named <= known


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shellcheck_accepts_the_scripts(path: Path) -> None:
    done = subprocess.run(
        # SC2154, SC2148: the module adds the shebang and $AGENTD above the body.
        [tool("shellcheck"), "--shell=sh", "--exclude=SC2154,SC2148", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""


def test_the_native_sidecar_is_valid_kubernetes() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    validate.validate(pod(), validate.latest_version(), strict=True)


def test_the_sidecar_starts_first_stops_last_and_fits_the_grace_period() -> None:
    spec = pod()["spec"]
    (sidecar,) = spec["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert "startupProbe" in sidecar
    budget_s = next(
        float(one["value"]) for one in sidecar["env"] if one["name"] == "AGENTD_SHUTDOWN_BUDGET_S"
    )
    before_stop = " ".join(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"])
    limit = re.search(r"--max-time (\d+)", before_stop)
    assert limit
    assert int(limit[1]) + budget_s < spec["terminationGracePeriodSeconds"]
    assert sidecar["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_kill_timeout_of_s6_is_longer_than_the_budget() -> None:
    kill_ms = int((DEPLOY / "s6/s6-rc.d/agentd/timeout-kill").read_text())
    default_s = next(key.default for key in config.keys().values() if key.name == "shutdown.budget_s")
    assert kill_ms / 1000 > default_s


@pytest.mark.parametrize(("code", "result"), [(0, 0), (75, 0), (1, 0), (64, 125), (78, 125)])
def test_s6_restarts_only_exit_codes_that_a_restart_can_correct(code: int, result: int) -> None:
    done = subprocess.run([DEPLOY / "s6/s6-rc.d/agentd/finish", str(code), "0"], check=False)
    assert done.returncode == result


def test_hadolint_accepts_the_dockerfile() -> None:
    done = subprocess.run(
        [tool("hadolint"), DEPLOY.parent / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""


def test_the_pinned_versions_satisfy_the_dependencies() -> None:
    dependencies = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    pinned = dict(
        re.findall(
            r"^([a-z0-9-]+)==(\S+)", (DEPLOY.parent / "packaging/requirements.txt").read_text(), re.MULTILINE
        )
    )
    for requirement in map(Requirement, dependencies):
        assert requirement.specifier.contains(pinned[requirement.name]), requirement
