"""`agentd completion bash|zsh|fish`: a script for the shell, drawn from the very parser that reads the command line.

    source <(agentd completion bash)                                # ~/.bashrc
    source <(agentd completion zsh)                                 # ~/.zshrc, after compinit
    agentd completion fish > ~/.config/fish/completions/agentd.fish

The script is static: completing a word starts no Python.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Final

from agentd.errors import ExitCode


@dataclass(frozen=True, slots=True)
class Word:
    """One word that may be typed.

    `takes` is what follows an option: "" nothing, `file`, or `value`, of which `values` are the only ones if there are
    any.
    """

    text: str
    summary: str = ""
    takes: str = ""
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """The words of one (sub)command: its options, and the choices of its positional arguments."""

    options: tuple[Word, ...]
    choices: tuple[Word, ...]


Tree = Mapping[str, Command]
"""By the words that lead to it: "" is agentd itself, `claims`, `simulate coderd`, …"""

_FILES: Final = {"F", "FILE", "PATH"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=sorted(_SCRIPTS), help="for which shell")


def run(args: argparse.Namespace) -> int:
    print(_SCRIPTS[args.shell](tree()), end="")
    return ExitCode.OK


def tree() -> Tree:
    """Every command with its words. Imports every command's module."""
    from agentd.cli import COMMANDS, parser_of  # noqa: PLC0415 - it imports us by name

    return dict(_walk("", parser_of(COMMANDS)))


def _walk(path: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, Command]]:
    options: list[Word] = []
    choices: list[Word] = []
    deeper: list[tuple[str, argparse.ArgumentParser]] = []
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to ask a parser what it takes
        if action.option_strings:
            takes = "" if action.nargs == 0 else "file" if action.metavar in _FILES else "value"
            values = tuple(str(choice) for choice in action.choices or ())
            options += [Word(text, _plain(action.help), takes, values) for text in action.option_strings]
        elif isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            helps = {one.dest: one.help for one in action._choices_actions}  # noqa: SLF001 - as above
            choices += [Word(name, _plain(helps.get(name))) for name in action.choices]
            deeper += [(f"{path} {name}".strip(), child) for name, child in action.choices.items()]
        elif action.choices:
            choices += [Word(str(choice)) for choice in action.choices]
    yield path, Command(tuple(options), tuple(choices))
    for name, child in deeper:
        yield from _walk(name, child)


def _plain(text: str | None) -> str:
    return re.sub(r"\s+", " ", (text or "").replace("%%", "%"))


def _ways(commands: Tree) -> str:
    """The command paths as a shell pattern: `claims|simulate|simulate coderd|…`."""
    return "|".join(quote(path) for path in commands if path)


def bash(commands: Tree) -> str:
    lines = [
        "# bash completion for agentd; made by `agentd completion bash`",
        "_agentd() {",
        '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" path="" word words=""',
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        '        case "${path:+$path }$word" in',
        f'            {_ways(commands)}) path="${{path:+$path }}$word" ;;',
        "        esac",
        "    done",
        '    case "$path:$previous" in',
        *(f"        {pattern}) {_bash_value(word)}return ;;" for pattern, word in _valued(commands)),
        "    esac",
        '    case "$path" in',
    ]
    for path, command in commands.items():
        words = " ".join(word.text for word in (*command.choices, *command.options))
        lines.append(f"        {quote(path)}) words={quote(words)} ;;")
    lines += [
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        "complete -o filenames -F _agentd agentd",
    ]
    return "\n".join(lines) + "\n"


def _bash_value(word: Word) -> str:
    """What completes the value of an option; nothing where it can be anything."""
    if word.takes == "file":
        return 'COMPREPLY=($(compgen -f -- "$current")); '
    return f'COMPREPLY=($(compgen -W {quote(" ".join(word.values))} -- "$current")); ' if word.values else ""


def _valued(commands: Tree) -> Iterator[tuple[str, Word]]:
    """The options that take a value, each with its shell pattern of `path:--option`."""
    for path, command in commands.items():
        yield from ((quote(f"{path}:{word.text}"), word) for word in command.options if word.takes)


def zsh(commands: Tree) -> str:
    lines = [
        "#compdef agentd",
        "# zsh completion for agentd; made by `agentd completion zsh`",
        "_agentd() {",
        '    local joined="" word previous="${words[CURRENT-1]}"',
        "    local -a said",
        '    for word in "${(@)words[2,CURRENT-1]}"; do',
        '        case "${joined:+$joined }$word" in',
        f'            ({_ways(commands)}) joined="${{joined:+$joined }}$word" ;;',
        "        esac",
        "    done",
        '    case "$joined:$previous" in',
        *(f"        ({pattern}) {_zsh_value(word)}return ;;" for pattern, word in _valued(commands)),
        "    esac",
        '    case "$joined" in',
    ]
    for path, command in commands.items():
        said = " ".join(_zsh_word(word) for word in (*command.choices, *command.options))
        lines.append(f"        ({quote(path)}) said=({said}) ;;")
    lines += [
        "    esac",
        "    _describe agentd said",
        "}",
        'if [ "$funcstack[1]" = _agentd ]; then _agentd "$@"; else compdef _agentd agentd; fi',
    ]
    return "\n".join(lines) + "\n"


def _zsh_value(word: Word) -> str:
    if word.takes == "file":
        return "_files; "
    return f"compadd -- {' '.join(quote(value) for value in word.values)}; " if word.values else ""


def _zsh_word(word: Word) -> str:
    # _describe splits at the first colon that is not escaped.
    name = word.text.replace(":", r"\:")
    return quote(f"{name}:{word.summary}" if word.summary else name)


def fish(commands: Tree) -> str:
    lines = ["# fish completion for agentd; made by `agentd completion fish`", "complete -c agentd -f"]
    for path, command in commands.items():
        when = _fish_condition(path, commands)
        lines += [_fish_line(when, ["-a", quote(word.text)], word) for word in command.choices]
        for word in command.options:
            name = (
                ["-l", quote(word.text[2:])] if word.text.startswith("--") else ["-s", quote(word.text[1:])]
            )
            follows = {"": [], "file": ["-r", "-F"], "value": ["-x"]}[word.takes]
            values = ["-a", quote(" ".join(word.values))] if word.values else []
            lines.append(_fish_line(when, [*name, *follows, *values], word))
    return "\n".join(lines) + "\n"


def _fish_condition(path: str, commands: Tree) -> str:
    if not path:
        return "__fish_use_subcommand"
    seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in path.split())
    below = [other.rpartition(" ")[2] for other in commands if other.rpartition(" ")[0] == path]
    return seen + (f"; and not __fish_seen_subcommand_from {' '.join(below)}" if below else "")


def _fish_line(when: str, words: list[str], word: Word) -> str:
    summary = ["-d", quote(word.summary)] if word.summary else []
    return " ".join(["complete", "-c", "agentd", "-n", quote(when), *words, *summary])


_SCRIPTS: Final[Mapping[str, Callable[[Tree], str]]] = {"bash": bash, "zsh": zsh, "fish": fish}
