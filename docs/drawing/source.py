"""Reads the source code of agentd without importing it: modules, imports, classes, calls and subscriptions."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = "agentd"

# Modules of these packages are not part of a flow.
_NOT_READ = ("simulator",)


class SourceError(Exception):
    """The code does not have what a picture or a list names."""


class Function(NamedTuple):
    """A function or a method. `owner` is its class, "" for a function of a module.

    Its name is `Watcher.poll`, or `events.parse` for a function of the module `claims.events`.
    """

    module: str
    owner: str
    node: ast.FunctionDef | ast.AsyncFunctionDef

    @property
    def name(self) -> str:
        return f"{self.owner or self.module.rpartition('.')[2]}.{self.node.name}"

    @property
    def parameters(self) -> list[ast.arg]:
        arguments = [*self.node.args.posonlyargs, *self.node.args.args]
        return [one for one in arguments if one.arg not in ("self", "cls")]

    @property
    def argument(self) -> str:
        """The type of the last positional parameter, "" without one."""
        return _type_text(self.parameters[-1].annotation) if self.parameters else ""

    @property
    def result(self) -> str:
        """The type of the result, "" for None and bool, which carry no data; of the items, for an iterator."""
        text = _type_text(self.node.returns)
        return "" if text in ("None", "bool") else text


class Subscription(NamedTuple):
    """`signal` of the class `owner` calls `target`."""

    owner: str
    signal: str
    target: str


class Source:
    """The code of one package."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.contract = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]

    # Modules.

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Each module by its name without "agentd.": "claims.ledger"; a package by its `__init__.py`."""
        found = {}
        for path in sorted((self.root / PACKAGE).rglob("*.py")):
            parts = path.relative_to(self.root / PACKAGE).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name:
                found[name] = path
        return found

    @cache  # noqa: B019 - one object for each run
    def tree(self, module: str) -> ast.Module:
        return ast.parse(self.text(module))

    def text(self, module: str) -> str:
        return self.paths[module].read_text("utf-8")

    def summary(self, module: str) -> str:
        """The first paragraph of the module's docstring. Raises `SourceError` if there is none."""
        docstring = ast.get_docstring(self.tree(module))
        if not docstring:
            raise SourceError(f"{module} has no docstring; write what it is or does in its first line")
        return " ".join(docstring.split("\n\n")[0].split())

    @property
    def layers(self) -> list[list[str]]:
        """The layers of the import-linter contract, highest first."""
        return [
            [name.strip() for name in layer.split("|")] for layer in self.contract["contracts"][0]["layers"]
        ]

    @property
    def pure_modules(self) -> list[str]:
        """The modules that do no I/O, by the import-linter contract that forbids it."""
        contract = next(one for one in self.contract["contracts"] if one["name"].startswith("Pure modules"))
        return [name.removeprefix(f"{PACKAGE}.") for name in contract["source_modules"]]

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """The packages and modules directly below agentd that each of them imports."""
        found: dict[str, set[str]] = {}
        for module in self.paths:
            importer = module.partition(".")[0]
            for name in _imported(self.tree(module)):
                imported = name.split(".")[1]
                if imported != importer and imported in self.paths:
                    found.setdefault(importer, set()).add(imported)
        return found

    # Classes and functions.

    @cached_property
    def _classes(self) -> dict[str, tuple[str, ast.ClassDef]]:
        return {
            node.name: (module, node)
            for module in self.paths
            if module.partition(".")[0] not in _NOT_READ
            for node in self.tree(module).body
            if isinstance(node, ast.ClassDef)
        }

    @cached_property
    def functions(self) -> dict[str, Function]:
        """Each function by its name."""
        found = {}
        for module in self.paths:
            if module.partition(".")[0] in _NOT_READ:
                continue
            for node in self.tree(module).body:
                members = node.body if isinstance(node, ast.ClassDef) else [node]
                owner = node.name if isinstance(node, ast.ClassDef) else ""
                for member in members:
                    if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                        function = Function(module, owner, member)
                        found[function.name] = function
        return found

    def function(self, name: str) -> Function:
        """Raises `SourceError`."""
        try:
            return self.functions[name]
        except KeyError:
            raise SourceError(f"agentd has no function {name}; was it renamed?") from None

    def has(self, name: str) -> bool:
        """Whether `Class.name` is a method or an attribute."""
        owner, _, attribute = name.partition(".")
        return name in self.functions or (owner in self._classes and attribute in self._attributes(owner))

    def module_of(self, name: str) -> str:
        """The module of a class or of a function of a module. Raises `SourceError`."""
        if name in self._classes:
            return self._classes[name][0]
        return self.function(name).module

    def constants(self, module: str) -> dict[str, float]:
        """The numbers among a module's constants."""
        return {
            node.target.id: node.value.value
            for node in self.tree(module).body
            if isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, int | float)
        }

    # Types, as far as annotations and constructors tell them.

    @cache  # noqa: B019 - one object for each run
    def _attributes(self, owner: str) -> dict[str, str]:
        """Attribute → class, from the fields of the class and the assignments in its constructor."""
        found: dict[str, str] = {}
        for node in self._classes[owner][1].body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = self._class_in(node.annotation)
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                known = self._parameter_types(node)
                for statement in ast.walk(node):
                    for target, value in _assignments(statement):
                        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                            found[target.attr] = self._type_of(value, known)
        return found

    def _known_in(self, function: Function) -> dict[str, str]:
        """Name → class inside of a function: imported functions by their results, parameters, `self`."""
        results = {
            name: self._class_in(self.functions[called].node.returns)
            for name, called in self._imported_functions(function.module).items()
            if called in self.functions
        }
        return {**results, **self._parameter_types(function.node), "self": function.owner}

    @cached_property
    def _type_aliases(self) -> set[str]:
        """The names that modules assign, which include the type aliases."""
        return {
            target.id
            for module in self.paths
            for node in self.tree(module).body
            for target, _ in _assignments(node)
            if isinstance(target, ast.Name)
        }

    def names_a_type(self, text: str) -> bool:
        """Whether `text`, an annotation, names a class or a type alias of agentd."""
        return any(name in self._classes or name in self._type_aliases for name in re.findall(r"\w+", text))

    def implementations(self, interface: str, package: str) -> list[str]:
        """The modules and packages in `package` with a class whose name ends in the name of the interface."""
        modules = [
            module
            for name, (module, _) in self._classes.items()
            if name.endswith(interface) and name != interface and module.startswith(f"{package}.")
        ]
        return sorted({module.removeprefix(f"{package}.").partition(".")[0] for module in modules})

    def _parameter_types(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, str]:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        return {one.arg: self._class_in(one.annotation) for one in arguments}

    def _class_in(self, annotation: ast.expr | None) -> str:
        """The first class of agentd in an annotation: `X`, of `X | None` and of `Sequence[X]` too."""
        if annotation is None:
            return ""
        names = re.findall(r"\w+", ast.unparse(annotation))
        return next((name for name in names if name in self._classes), "")

    def _type_of(self, node: ast.expr, known: dict[str, str]) -> str:
        """The class of an expression or of its items, "" if it is not known."""
        match node:
            case ast.Name(id=name):
                return known.get(name, name if name in self._classes else "")
            case ast.Attribute(value=value, attr=attr):
                owner = self._type_of(value, known)
                if not owner:
                    return ""
                method = self.functions.get(f"{owner}.{attr}")
                return (
                    self._class_in(method.node.returns) if method else self._attributes(owner).get(attr, "")
                )
            case ast.Call(func=func):
                return self._type_of(func, known)
            case ast.Subscript(value=value):
                return self._type_of(value, known)
            case ast.ListComp(elt=item):
                return self._type_of(item, known)
        return ""

    def names_in(self, name: str) -> dict[str, str]:
        """The names that the function `name` starts with, and the class of each."""
        return self._known_in(self.function(name))

    def callee(self, node: ast.expr, known: dict[str, str], inside: str) -> str:
        """The name of the function that an expression inside of the function `inside` names."""
        match node:
            case ast.Attribute(value=value, attr=attr):
                return f"{self._type_of(value, known) or ast.unparse(value)}.{attr}"
            case ast.Name(id=name):
                return self._imported_functions(self.function(inside).module).get(name, name)
        return ast.unparse(node)

    @cache  # noqa: B019 - one object for each run
    def calls(self, name: str) -> frozenset[str]:
        """The functions that the function `name` calls or passes on."""
        function = self.function(name)
        known = self._known_in(function)
        found = set()
        for node in ast.walk(function.node):
            for target, value in _assignments(node):
                if isinstance(target, ast.Name):
                    known[target.id] = self._type_of(value, known)
            if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
                known[node.target.id] = self._type_of(node.iter, known)
        for node in ast.walk(function.node):
            match node:
                case ast.Attribute(value=value, attr=attr):
                    found.add(f"{self._type_of(value, known)}.{attr}")
                    found.add(f"{ast.unparse(value)}.{attr}")
                case ast.Name(id=callee):
                    found |= {callee, self._imported_functions(function.module).get(callee, callee)}
        return frozenset(found)

    @cache  # noqa: B019 - one object for each run
    def _imported_functions(self, module: str) -> dict[str, str]:
        """The functions that the code of a module calls without a prefix: those that it imports, and its own."""
        imported = (name.rpartition(".") for name in _imported(self.tree(module)))
        own = (one.node.name for one in self.functions.values() if one.module == module and not one.owner)
        last = module.rpartition(".")[2]
        return {name: f"{origin.rpartition('.')[2]}.{name}" for origin, _, name in imported} | {
            name: f"{last}.{name}" for name in own
        }

    def does_call(self, caller: str, callee: str) -> bool:
        """Whether `caller` calls `callee`, also through other methods of its class."""
        owner = self.function(caller).owner
        seen, waiting = set(), [caller]
        while waiting:
            current = waiting.pop()
            seen.add(current)
            called = self.calls(current)
            if callee in called:
                return True
            own = {one for one in called if owner and one.startswith(f"{owner}.") and one in self.functions}
            waiting += sorted(own - seen)
        return False

    # Subscriptions.

    @cached_property
    def subscriptions(self) -> list[Subscription]:
        """Every `component.signal.add(target)` of the daemon: those of `wiring.py`, then those of other modules."""
        modules = ["daemon.wiring", *(name for name in self.paths if name.startswith("daemon."))]
        functions = [one for module in modules for one in self.functions.values() if one.module == module]
        found = [one for function in functions for one in self._subscriptions_in(function)]
        return list(dict.fromkeys(found))

    def _subscriptions_in(self, function: Function) -> Iterator[Subscription]:
        known = self._known_in(function)
        local = {node.name: node for node in ast.walk(function.node) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(function.node):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="add", value=ast.Attribute(attr=signal, value=component)),
                    args=[target],
                ):
                    owner = self._type_of(component, known)
                    if owner and self._attributes(owner).get(signal) == "Subscribers":
                        yield Subscription(owner, signal, self._target(target, local, known))

    def _target(self, node: ast.expr, local: dict[str, ast.FunctionDef], known: dict[str, str]) -> str:
        """The method behind a subscriber: itself, or what the lambda or local function calls."""
        match node:
            case ast.Attribute(value=value, attr=attr):
                return f"{self._type_of(value, known)}.{attr}"
            case ast.Lambda(body=ast.Call(func=func)):
                return self._target(func, local, known)
            case ast.Name(id=name) if name in local:
                calls = [one.func for one in ast.walk(local[name]) if isinstance(one, ast.Call)]
                return self._target(calls[0], local, known)
        raise SourceError(f"a subscriber is neither a method nor calls one: {ast.unparse(node)}")


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (one.name for one in names if one.name.startswith(f"{PACKAGE}."))
            case ast.ImportFrom(module=str() as module, names=names):
                if module == PACKAGE or module.startswith(f"{PACKAGE}."):
                    yield from (f"{module}.{one.name}" for one in names)


def _assignments(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Target and value of each assignment, those of `a, b = c, d` in pairs."""
    match node:
        case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
            yield from zip(targets, values, strict=True)
        case ast.Assign(targets=[target], value=value):
            yield target, value
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            yield target, value


def _type_text(annotation: ast.expr | None) -> str:
    match annotation:
        case None:
            return ""
        case ast.Constant(value=str() as text):
            return text
        case ast.Subscript(value=ast.Name(id="AsyncIterator" | "AsyncGenerator"), slice=items):
            return ast.unparse(items.elts[0] if isinstance(items, ast.Tuple) else items)
    return ast.unparse(annotation)
