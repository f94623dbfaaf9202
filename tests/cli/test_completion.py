"""What the shells offer is what the command line takes. Real shells, no Python while completing."""

import shutil
import subprocess

import pytest

from agentd.cli import COMMANDS, completion, main


@pytest.fixture(scope="module")
def scripts():
    commands = completion.tree()
    return {name: make(commands) for name, make in completion._SCRIPTS.items()}


def bash(script, words):
    typed = " ".join(f"'{word}'" for word in words)
    ask = f"""{script}
COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _agentd; printf '%s\\n' "${{COMPREPLY[@]}}" """
    return shell("bash", ask)


def zsh(script, words):
    # The completion system needs a terminal; its three functions are all that the script calls.
    stand_ins = 'compdef() { :; }; compadd() { shift; print -l -- "$@"; }; _files() { print -l FILES; }\n'
    stand_ins += '_describe() { local w; for w in "${(@P)2}"; do print -r -- "${w%%:*}"; done }\n'
    typed = " ".join(f"'{word}'" for word in words)
    ask = f"{stand_ins}{script}\nwords=({typed}); CURRENT={len(words)}; _agentd"
    last = words[-1]
    return {word for word in shell("zsh", ask) if word.startswith(last)}


def fish(script, words):
    ask = f"{script}\ncomplete -C '{' '.join(words)}'"
    return {line.split("\t")[0] for line in shell("fish", ask)}


def shell(name, ask):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([name, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


@pytest.fixture(params=SHELLS)
def offered(request, scripts):
    return lambda *words: SHELLS[request.param](scripts[request.param], words)


def test_every_command_is_offered(offered):
    assert offered("agentd", "") >= set(COMMANDS)


def test_what_is_typed_narrows_the_offer(offered):
    assert offered("agentd", "sna") == {"snapshot"}


def test_a_commands_actions_and_options_are_offered(offered):
    assert offered("agentd", "claims", "") >= {"list", "show", "retry", "forget"}
    assert offered("agentd", "claims", "--") >= {"--json", "--config", "--set"}
    assert "--oneline" in offered("agentd", "status", "--")


def test_a_command_of_a_command_is_offered_and_has_its_own_options(offered):
    assert offered("agentd", "simulate", "") >= {"coderd", "agentapi"}
    assert "--era" in offered("agentd", "simulate", "coderd", "--")


def test_after_an_option_that_takes_anything_no_option_is_offered(offered):
    assert "--json" not in offered("agentd", "stop", "--timeout", "")


def test_after_an_option_with_a_few_values_those_are_offered(offered):
    assert offered("agentd", "simulate", "coderd", "--era", "") >= {"E1", "E5"}
    assert "--port" not in offered("agentd", "simulate", "coderd", "--era", "")


def test_every_option_of_every_command_is_in_every_script(scripts):
    commands = completion.tree()
    options = {word.text for command in commands.values() for word in command.options}
    assert len(options) > 20
    for script in scripts.values():
        assert {option for option in options if option.lstrip("-") not in script} == set()


def test_it_is_printed_for_a_known_shell_and_no_other(capsys):
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out.endswith("complete -o filenames -F _agentd agentd\n")
    assert main(["completion", "tcsh"]) == 64


def test_the_shells_find_no_fault_in_the_scripts(scripts, tmp_path):
    for name, script in scripts.items():
        if shutil.which(name):
            path = tmp_path / name
            path.write_text(script)
            subprocess.run([name, "-n", str(path)], check=True)
