"""Rules of the house that no linter knows, read off the source tree."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd import config
from agentd.config.load import _NOT_SETTINGS

ROOT = Path(__file__).parents[1]
CODE = sorted(path for folder in ("agentd", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
PROSE = sorted(
    path
    for pattern in ("*.md", "Makefile", "Dockerfile", "docs/**/*.md", "systemd/**/*", "agentd/**/*.service")
    for path in ROOT.glob(pattern)
    if path.is_file()
)
OURS = [path for path in CODE if path.is_relative_to(ROOT / "agentd")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def comments(path: Path) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def test_the_tree_is_where_this_test_looks():
    assert len(OURS) > 50
    assert {"README.md", "docs/configuration.md"} <= {name_of(path) for path in PROSE}


def test_every_module_is_named_for_its_idea():
    grab_bags = {
        "utils",
        "util",
        "base",
        "types",
        "models",
        "interfaces",
        "helpers",
        "common",
        "misc",
        "core",
    }
    assert [name_of(path) for path in OURS if {path.stem, path.parent.name} & grab_bags] == []


def test_every_file_reads_on_a_few_screens():
    long = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in OURS}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_nothing_is_left_to_do():
    # Put together here, so that this file does not hold what it looks for.
    mark = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b")
    assert [name_of(path) for path in (*CODE, *PROSE) if mark.search(path.read_text("utf-8"))] == []


NOQA = re.compile(r"# noqa: [A-Z]+[0-9]+(, [A-Z]+[0-9]+)* - \S")
TYPE_IGNORE = re.compile(r"# type: ignore\[[a-z-]+(, ?[a-z-]+)*\]  # \S")


def unreasoned(comment: str) -> bool:
    """Whether `comment` silences a checker without saying which rule and why."""
    return bool(
        ("# noqa" in comment and not NOQA.search(comment))
        or ("# type: ignore" in comment and not TYPE_IGNORE.search(comment))
        or "pragma: no " + "cover" in comment
    )


@pytest.mark.parametrize(
    ("comment", "is_unreasoned"),
    [
        ("# noqa: S105 - a path", False),
        ("# noqa: S105, S106 - made up", False),
        ("# noqa: S105", True),
        ("# noqa", True),
        ("# type: ignore[arg-type]  # a text sink", False),
        ("# type: ignore[arg-type]", True),
        ("# type: ignore  # because", True),
        ("# pragma: no " + "cover", True),
        ("# the reason for the next line", False),
    ],
)
def test_the_guard_knows_a_reason_when_it_sees_one(comment, is_unreasoned):
    assert unreasoned(comment) == is_unreasoned


def test_every_silenced_checker_is_told_why():
    found = [
        f"{name_of(path)}:{line}: {text}"
        for path in CODE
        for line, text in comments(path)
        if unreasoned(text)
    ]
    assert found == []


def test_no_file_knows_the_machine_it_was_written_on():
    paths = re.compile(
        "|".join((r"(?<![\w.])/wo" + r"rk/", r"/tmp/" + r"notes", r"\.\./" + r"shared\b", r"/root/\."))
    )
    found = [
        f"{name_of(path)}:{number}"
        for path in (*CODE, *PROSE, ROOT / "pyproject.toml", ROOT / "Makefile")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if paths.search(line)
    ]
    assert found == []


def test_documents_name_no_variable_that_does_not_exist():
    known = {env_name for key in config.keys().values() for env_name in key.env} | _NOT_SETTINGS
    found = {
        (name_of(path), name)
        for path in PROSE
        for name in re.findall(r"\bAGENTD_[A-Z_]*[A-Z]\b", path.read_text("utf-8"))
        if name not in known and name != "AGENTD_SECTION_KEY"
    }
    assert found == set()


# Where the default depends on the machine, the document says it in its own words.
DEPENDS = {"coder.url", "coder.token", "coder.token_file", "state.dir", "local_api.socket"}


def default_of(key: config.Key) -> str:
    match key.default:
        case None | "" | ():
            return "none"
        case bool():
            return f"`{str(key.default).lower()}`"
        case float():
            return f"`{key.default:g}`"
        case tuple():
            return f"`{', '.join(key.default)}`"
        case _:
            return f"`{key.default}`"


def table() -> dict[str, list[str]]:
    """The rows of docs/configuration.md that describe a key: key → the other cells."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    rows = [
        re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if re.match(r"\| `[a-z_]+\.", line)
    ]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in rows}


def test_the_document_lists_every_key_in_order_and_no_other():
    assert list(table()) == list(config.keys())


@pytest.mark.parametrize("name", config.keys())
def test_the_document_names_variables_and_default_of_a_key(name):
    key = config.keys()[name]
    env, default, meaning = table()[name]
    assert env == ", ".join(f"`{env_name}`" for env_name in key.env)
    assert len(meaning) > 20
    if name in DEPENDS:
        assert default not in ("", "none")
    else:
        assert default == default_of(key)


NUMBERS = [name for name, key in config.keys().items() if key.annotation in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
def test_the_document_names_the_range_of_a_number(name):
    spec = config.keys()[name].spec
    assert f"{spec.low:g} to {spec.high:g}" in table()[name][2]
