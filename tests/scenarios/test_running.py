"""Scenario files: invalid ones, failing ones, and the output of the command."""

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from agentd.cli import simulate
from agentd.simulator.scenario import file
from agentd.simulator.scenario.execute import execute

PASSING = """
title = "coderd's clock"
[[step]]
do = "coderd.advance-clock"
seconds = 60
[[step]]
do = "agent.message"
content = "for ${task_id}"
[[step]]
expect = "agent"
messages = 2
[[step]]
do = "write"
path = "notes/today"
text = "${workspace_id}"
[[step]]
expect = "file"
path = "notes/today"
exists = true
"""

INVALID = {
    "no TOML": ("title = ", "Invalid value"),
    "no title": ('[[step]]\nexpect = "agent"\n', "title: missing"),
    "nothing expected": ('title = "x"\n[[step]]\ndo = "agent.hang"\n', "the scenario checks nothing"),
    "an unknown key": ('title = "x"\nsteps = 3\n', "steps: unknown key"),
    "an unknown setting": (
        'title = "x"\n[coderd]\nerra = "E1"\n',
        "coderd.erra: unknown key; known here: era",
    ),
    "a setting of the wrong type": ('title = "x"\n[coderd]\nera = 1\n', "coderd.era: 1 has the wrong type"),
    "an unknown workspace": ('title = "x"\n[coderd]\nworkspace = "y"\n', "use prebuild or regular"),
    "an unknown action": (
        'title = "x"\n[[step]]\ndo = "coderd.explode"\n',
        "step 1: unknown action 'coderd.explode'",
    ),
    "an unknown subject": (
        'title = "x"\n[[step]]\nwait = "moon"\n',
        "step 1: unknown subject 'moon'; known: agent",
    ),
    "two verbs": ('title = "x"\n[[step]]\ndo = "mark"\nwait = "log"\n', "exactly one of do, wait and expect"),
    "no number": (
        'title = "x"\n[[step]]\nwait = "log"\nwithin_s = "long"\n',
        "'long' is not a number of seconds",
    ),
    "a bad script": ('title = "x"\n[agent]\nscript = [{dance = "yes"}]\n', "script step 1: unknown dance"),
    "no such status": ('title = "x"\n[agent]\nscript = [{status = "asleep"}]\n', "unknown status 'asleep'"),
}


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "sample.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def run():
    def one(*words):
        parser = argparse.ArgumentParser()
        simulate.configure(parser)
        return simulate.run(parser.parse_args(words))

    return one


@pytest.mark.parametrize(("text", "message"), INVALID.values(), ids=INVALID)
def test_an_invalid_file_is_refused_with_the_reason(written, run, capsys, text, message):
    assert run("run", str(written(text))) == 1
    errors = capsys.readouterr().err
    assert message in errors
    assert "sample.toml" in errors


def test_a_scenario_that_passes_exits_0(written, run, capsys):
    assert run("run", str(written(PASSING))) == 0
    printed = capsys.readouterr().out
    assert "✓  1 do coderd.advance-clock (seconds = 60)" in printed
    assert "✓ sample passed" in printed


def test_a_failed_step_is_printed_with_the_value_found(written, run, capsys):
    path = written(PASSING.replace("messages = 2", "messages = 3"))
    assert run("run", "--quiet", str(path)) == 1
    errors = capsys.readouterr().err
    assert "✗ sample: step 3 failed" in errors
    assert "messages: wanted 3, found 2" in errors


def test_one_failed_scenario_of_several_exits_1(written, run, capsys, tmp_path):
    good = written(PASSING)
    bad = tmp_path / "bad.toml"
    bad.write_text(PASSING.replace("exists = true", "exists = false"))
    assert run("run", "--quiet", str(good), str(bad)) == 1
    assert "1 of 2 scenarios passed; failed: bad" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ('do = "daemon.stop"', "no daemon was started"),
        ('do = "remove"\npath = "nothing"', "FileNotFoundError"),
        ('do = "write"\npath = "../outside"', "outside the scenario's home"),
        ('do = "mark"\nhow = "big"', "mark: unknown field how"),
        ('do = "coderd.claim-fail"', "no claim build is in progress"),
        ('do = "coderd.fault"\nroute = "moon"\nkind = "slow"', "no such route: 'moon'"),
        ('do = "hook"\nname = "10-x"', "script: missing"),
        (
            'wait = "agent"\nwithin_s = 0.1\nstatus = "running"',
            "status: wanted 'running', found 'stable' (after 0.1 s)",
        ),
    ],
)
async def test_an_impossible_action_fails_its_step(written, tmp_path, step, message):
    path = written(f'title = "x"\n[[step]]\n{step}\n[[step]]\nexpect = "agent"\n')
    home = tmp_path / "home"
    home.mkdir()
    verdict = await execute(file.load(path), home)
    assert not verdict.passed
    assert message in verdict.why


async def test_a_script_runs_all_its_actions(written, tmp_path):
    path = written(
        """
        title = "x"
        [agent]
        messages = [{role = "agent", content = "hello"}]
        script = [
          {status = "running"}, {message = "hi", role = "user"}, {message = "a"},
          {append = "b", after_s = 0.01}, {error = "hm", level = "warning"}, {rewrite = "abc"}, {status = "stable"},
        ]
        [[step]]
        do = "agent.play"
        [[step]]
        wait = "agent"
        playing = false
        [[step]]
        expect = "agent"
        messages = 3
        status = "stable"
        """
    )
    home = tmp_path / "home"
    home.mkdir()
    verdict = await execute(file.load(path), home)
    assert verdict.passed, verdict.why


def test_the_list_names_every_shipped_scenario(run, capsys):
    assert run("list") == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == [path.stem for path in file.shipped()]


def test_an_unknown_scenario_is_refused(run, capsys):
    assert run("run", "claim-on-the-moon") == 1
    assert "no scenario 'claim-on-the-moon'; `agentd simulate list`" in capsys.readouterr().err
    assert run("run") == 1


@pytest.mark.e2e
async def test_sigterm_ends_the_daemon(written, tmp_path_factory):
    # A short path: the name of the daemon's socket may have 107 bytes.
    home = tmp_path_factory.mktemp("home")
    path = written(
        'title = "x"\n[[step]]\ndo = "daemon.start"\n[[step]]\nwait = "log"\nevent = "never"\nwithin_s = 600\n'
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentd", "simulate", "run", "--keep", str(path),
        env={**os.environ, "TMPDIR": str(home)}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    while b"daemon.start" not in (line := await process.stdout.readline()):
        assert line, await process.stderr.read()
    process.send_signal(signal.SIGTERM)
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"interrupted" in errors
    log = next(home.glob("agentd-sample-*/daemon-1.log")).read_text().splitlines()
    pid = next(line["pid"] for line in map(json.loads, log) if line["event"] == "agentd.started")
    assert not Path(f"/proc/{pid}/exe").exists()
