"""Rules for the source tree that no linter checks."""

import ast
import functools
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

from agentd import config
from agentd.config.load import _NOT_SETTINGS

ROOT = Path(__file__).parents[1]
CODE = sorted(
    path for folder in ("agentd", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")
)
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
    """The comments with their lines. Tokenizing is slow: search the text of the file first."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def test_the_source_tree_is_found():
    assert len(OURS) > 50
    assert {"README.md", "docs/configuration.md"} <= {name_of(path) for path in PROSE}


def test_no_module_has_a_catch_all_name():
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


def test_no_file_is_longer_than_400_lines():
    long = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in OURS}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_no_file_has_a_mark_for_open_work():
    # In parts, so that this file does not match.
    mark = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b")
    assert [name_of(path) for path in (*CODE, *PROSE) if mark.search(path.read_text("utf-8"))] == []


NOQA = re.compile(r"# noqa: [A-Z]+[0-9]+(, [A-Z]+[0-9]+)* - \S")
TYPE_IGNORE = re.compile(r"# type: ignore\[[a-z-]+(, ?[a-z-]+)*\]  # \S")


def lacks_reason(comment: str) -> bool:
    """Whether `comment` disables a checker without the rule and the reason."""
    return bool(
        ("# noqa" in comment and not NOQA.search(comment))
        or ("# type: ignore" in comment and not TYPE_IGNORE.search(comment))
        or "pragma: no " + "cover" in comment
    )


@pytest.mark.parametrize(
    ("comment", "without_reason"),
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
def test_a_missing_reason_is_found(comment, without_reason):
    assert lacks_reason(comment) == without_reason


def test_every_disabled_check_has_a_reason():
    found = [
        f"{name_of(path)}:{line}: {text}"
        for path in CODE
        if any(lacks_reason(line) for line in path.read_text("utf-8").splitlines())
        for line, text in comments(path)
        if lacks_reason(text)
    ]
    assert found == []


def test_no_file_names_a_path_of_the_development_machine():
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


def test_every_variable_in_a_document_exists():
    known = {env_name for key in config.keys().values() for env_name in key.env} | _NOT_SETTINGS
    found = {
        (name_of(path), name)
        for path in PROSE
        for name in re.findall(r"\bAGENTD_[A-Z_]*[A-Z]\b", path.read_text("utf-8"))
        if name not in known and name != "AGENTD_SECTION_KEY"
    }
    assert found == set()


# Keys whose default depends on the machine; the document describes it in prose.
MACHINE_DEFAULTS = {
    "coder.url",
    "coder.token",
    "coder.token_file",
    "agent.home",
    "state.dir",
    "local_api.socket",
}


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


def documented_keys() -> dict[str, list[str]]:
    """The rows of docs/configuration.md that describe a key: key → the other cells."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    rows = [
        re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if re.match(r"\| `[a-z_]+\.", line)
    ]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in rows}


def test_the_document_lists_exactly_the_keys_in_order():
    assert list(documented_keys()) == list(config.keys())


@pytest.mark.parametrize("name", config.keys())
def test_the_document_has_the_variables_and_the_default_of_a_key(name):
    key = config.keys()[name]
    env, default, meaning = documented_keys()[name]
    assert env == ", ".join(f"`{env_name}`" for env_name in key.env)
    assert len(meaning) > 20
    if name in MACHINE_DEFAULTS:
        assert default not in ("", "none")
    else:
        assert default == default_of(key)


NUMBERS = [name for name, key in config.keys().items() if key.annotation in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
def test_the_document_has_the_range_of_a_number(name):
    key = config.keys()[name]
    assert f"{key.low:g} to {key.high:g}" in documented_keys()[name][2]


def lines(found: Iterator[tuple[Path, int, str]]) -> list[str]:
    """`file:line: what`."""
    return [f"{name_of(path)}:{line}: {what}" for path, line, what in found]


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def nodes(paths: list[Path]) -> Iterator[tuple[Path, ast.AST]]:
    for path in paths:
        for node in ast.walk(tree(path)):
            yield path, node


def exception_classes() -> Iterator[tuple[Path, int, str]]:
    classes = [(path, node) for path, node in nodes(OURS) if isinstance(node, ast.ClassDef)]
    by_name = {node.name: node for _, node in classes}

    def is_exception(name: str) -> bool:
        if name in by_name:
            return any(is_exception(ast.unparse(base).rpartition(".")[2]) for base in by_name[name].bases)
        return name.endswith(("Error", "Exception"))

    for path, node in classes:
        if is_exception(node.name):
            yield path, node.lineno, node.name


def test_every_exception_class_ends_in_error():
    found = list(exception_classes())
    assert len(found) > 30
    wrong = (one for one in found if not one[2].endswith("Error"))
    assert lines(wrong) == []


def test_every_exception_is_bound_as_exc():
    wrong = (
        (path, node.lineno, node.name)
        for path, node in nodes(OURS)
        if isinstance(node, ast.ExceptHandler) and node.name not in (None, "exc")
    )
    assert lines(wrong) == []


def variable_constants() -> Iterator[tuple[Path, int, str]]:
    """Module-level names in upper case without `Final`."""
    for path in OURS:
        for node in tree(path).body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)]):
                    annotation = ""
                case ast.AnnAssign(target=ast.Name(id=name)):
                    annotation = ast.unparse(node.annotation)
                case _:
                    continue
            if re.fullmatch(r"_?[A-Z][A-Z0-9_]+", name) and not annotation.startswith("Final"):
                yield path, node.lineno, name


def test_every_constant_is_final():
    assert lines(variable_constants()) == []


def test_only_a_package_has_an_export_list():
    wrong = (
        (path, node.lineno, "__all__")
        for path, node in nodes([path for path in OURS if path.name != "__init__.py"])
        if isinstance(node, ast.Assign) and "__all__" in map(ast.unparse, node.targets)
    )
    assert lines(wrong) == []


def module_of(path: Path) -> str:
    """`agentd.claims.events`; a package for its `__init__.py`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(source: str, known: Collection[str]) -> set[str]:
    """The modules of `known` that `source` imports, also inside functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import, which this function does not resolve"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= submodules & set(known) or {str(node.module)}
    return found & set(known)


def modules_in_cycles(graph: Mapping[str, Collection[str]]) -> list[str]:
    """The modules that import themselves, directly or through other modules."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [*graph[start]]
        while waiting:
            if (module := waiting.pop()) not in seen:
                seen.add(module)
                waiting += graph[module]
        return seen

    return sorted(module for module in graph if module in reachable(module))


def test_every_kind_of_import_is_found():
    source = """
import a.b
from a import c
from a.d import Name
if TYPE_CHECKING:
    from a.e import Other
def function():
    from a import f
import other
"""
    assert imports(source, {"a", "a.b", "a.c", "a.d", "a.e", "a.f"}) == {"a.b", "a.c", "a.d", "a.e", "a.f"}


def test_a_cycle_is_found():
    graph = {"a": ["b"], "b": ["c"], "c": ["b"], "d": ["a"]}
    assert modules_in_cycles(graph) == ["b", "c"]


def test_no_module_is_part_of_an_import_cycle():
    paths = {module_of(path): path for path in OURS}
    graph = {module: imports(path.read_text("utf-8"), paths) - {module} for module, path in paths.items()}
    assert sum(map(len, graph.values())) > 500
    assert modules_in_cycles(graph) == []


TWO_SPACES = re.compile(r"[a-z`)\]][.!?][)`]?  +(?=[A-Z`])")


def comments_and_docstrings(path: Path) -> Iterator[tuple[int, str]]:
    yield from comments(path)
    for node in ast.walk(tree(path)):
        match node:
            case ast.Expr(value=ast.Constant(value=str() as text)):
                yield node.lineno, text


def test_one_space_follows_a_full_stop():
    wrong = (
        (path, line, text)
        for path in CODE
        if TWO_SPACES.search(path.read_text("utf-8"))
        for line, text in comments_and_docstrings(path)
        if TWO_SPACES.search(text)
    )
    assert lines(wrong) == []


# Each word has a plain replacement: name the part, "until cancelled", "trigger", "build", "components".
VAGUE = re.compile(
    r"(?<![a-z`])(whoever|whomever|nobody|somebody|anybody|everybody|for[ _]ever|rings|furnish\w*|rooms?)(?![a-z`])",
    re.IGNORECASE,
)
TEXTS = sorted(
    path
    for folder in ("agentd", "tests", "benchmarks", "docs", "packaging", "systemd", "deploy")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts and path != Path(__file__)
) + [ROOT / name for name in ("README.md", "Dockerfile", "Makefile", "pyproject.toml")]


@pytest.mark.parametrize(
    ("line", "is_vague"),
    [
        ("a server nobody vouches for", True),
        ("def test_it_waits_for_ever():", True),
        ("rooms.recorder", True),
        ("the user `nobody`", False),
        ("runs until cancelled", False),
        ("strings and chatrooms", False),
    ],
)
def test_a_vague_word_is_found(line, is_vague):
    assert bool(VAGUE.search(line)) == is_vague


def test_the_parts_of_the_program_are_named():
    wrong = (
        (path, number, match[0])
        for path in TEXTS
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        for match in VAGUE.finditer(line)
    )
    assert lines(wrong) == []


def test_a_module_that_calls_itself_pure_is_checked_to_be_pure():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    [checked] = [set(one["source_modules"]) for one in contracts if one["name"].startswith("Pure modules")]
    pure = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "agentd").rglob("*.py")
        if path.name != "__init__.py" and re.match(r'r?"""[^"]*?\bPure\b', path.read_text("utf-8"))
    }
    assert pure == {name for name in checked if name != "agentd.agents.agent"}, "list it in pyproject.toml"


def test_every_package_that_is_imported_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {
        re.split(r"[^A-Za-z0-9_-]", requirement)[0].replace("-", "_")
        for requirement in (*project["dependencies"], *project["optional-dependencies"]["objects"])
    }
    imported = {
        name.partition(".")[0]
        for _, node in nodes(OURS)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    assert imported - set(sys.stdlib_module_names) - {"agentd"} == declared


def test_only_the_daemon_itself_holds_all_components():
    """Each other part is given what it uses, so that its constructor says what it depends on."""
    holders = {
        name_of(path) for path, node in nodes(OURS) if isinstance(node, ast.Name) and node.id == "Components"
    }
    assert holders == {"agentd/daemon/build.py", "agentd/daemon/run.py"}
