"""The completion scripts, in real shells."""

import shutil
import subprocess

import pytest

from agentd.cli import COMMANDS, completion, main


@pytest.fixture(scope="module")
def scripts():
    commands = completion.tree()
    return {name: "\n".join(make(commands)) + "\n" for name, make in completion._SCRIPTS.items()}


def bash(script, words):
    typed = " ".join(f"'{word}'" for word in words)
    ask = f"""{script}
COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _agentd; printf '%s\\n' "${{COMPREPLY[@]}}" """
    return shell("bash", ask)


def zsh(script, words):
    # zsh's completion system needs a terminal, so replace the functions that the script calls.
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
def completed(request, scripts):
    return lambda *words: SHELLS[request.param](scripts[request.param], words)


def test_every_command_is_completed(completed):
    assert completed("agentd", "") >= set(COMMANDS)


def test_a_prefix_selects_the_matching_commands(completed):
    assert completed("agentd", "sna") == {"snapshot"}


def test_actions_and_options_of_a_command_are_completed(completed):
    assert completed("agentd", "claims", "") >= {"list", "show", "retry", "forget"}
    assert completed("agentd", "claims", "--") >= {"--json", "--config", "--set"}
    assert "--oneline" in completed("agentd", "status", "--")


def test_a_subcommand_is_completed_with_its_own_options(completed):
    assert completed("agentd", "simulate", "") >= {"coderd", "agentapi"}
    assert "--era" in completed("agentd", "simulate", "coderd", "--")


def test_after_an_option_with_a_free_value_no_option_is_completed(completed):
    assert "--json" not in completed("agentd", "stop", "--timeout", "")


def test_after_an_option_with_fixed_values_these_are_completed(completed):
    assert completed("agentd", "simulate", "coderd", "--era", "") >= {"E1", "E5"}
    assert "--port" not in completed("agentd", "simulate", "coderd", "--era", "")


def test_every_option_of_every_command_is_in_every_script(scripts):
    commands = completion.tree()
    options = {word.text for words in commands.values() for word in words if word.text.startswith("-")}
    assert len(options) > 20
    for script in scripts.values():
        assert {option for option in options if option.lstrip("-") not in script} == set()


def test_an_unknown_shell_exits_with_64(capsys):
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out.endswith("complete -o filenames -F _agentd agentd\n")
    assert main(["completion", "tcsh"]) == 64


def test_the_shells_accept_the_syntax_of_the_scripts(scripts, tmp_path):
    for name, script in scripts.items():
        if shutil.which(name):
            path = tmp_path / name
            path.write_text(script)
            subprocess.run([name, "-n", str(path)], check=True)
