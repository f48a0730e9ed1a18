"""Measures how the code is laid out and prints one table; other checkouts are measured beside it.

    python scripts/measure_house.py                       this checkout
    python scripts/measure_house.py . ../before           this one beside another
    python scripts/measure_house.py --json .              the same as JSON
    python scripts/measure_house.py --names builtin       every vague name in a room, as file:line: name

Reads source only, but for one row: `optimize_task` is run with the scripted LM by `trace_optimize_task.py`, with the
environment `.venv` of each checkout (`--no-run` leaves it out).
"""

import argparse
import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

__all__ = ["Checkout", "Module", "circles", "measures", "vague_names"]

HERE = Path(__file__).resolve().parent

VAGUE = frozenset(
    ["found", "each", "shown", "known", "wanted", "before", "done", "given", "asked", "told", "made", "kept", "noted"]
)
"""Words that say the grammar of a thing and not what it is."""

MANY_PARAMETERS = 8

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Module:
    """One source file, as a module of its package."""

    path: Path
    name: str

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def functions(self) -> list[tuple[Function, bool]]:
        """Every function, with whether it is a method."""
        methods = {id(member) for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef) for member in node.body}
        return [(node, id(node) in methods) for node in ast.walk(self.tree) if isinstance(node, Function)]

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


class Checkout:
    """A folder with this project's code, whatever its age."""

    def __init__(self, root: Path):
        self.root = root.resolve()

    @cached_property
    def modules(self) -> list[Module]:
        """All source modules of core, plugins and providers."""
        sources = sorted([*self.root.glob("core/src"), *self.root.glob("*/*/src")])
        sources = [source for source in sources if source.parent.parent.name != "examples"]
        return [
            Module(path=path, name=module_name(path.relative_to(source)))
            for source in sources
            for path in sorted(source.rglob("*.py"))
        ]

    @cached_property
    def packages(self) -> list[str]:
        return sorted({module.name.partition(".")[0] for module in self.modules})

    def of(self, package: str) -> list[Module]:
        return [module for module in self.modules if module.name.partition(".")[0] == package]

    def room(self, room: str) -> list[Module]:
        """The modules whose path below the source folders has the part `room`."""
        return [module for module in self.modules if room in module.name.split(".")]

    def at(self, module: Module, node: ast.AST) -> str:
        return f"{module.path.relative_to(self.root)}:{getattr(node, 'lineno', 1)}"


def module_name(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# --- imports


def import_graph(modules: list[Module]) -> dict[str, set[str]]:
    """Which module imports which of `modules`: at its head, lazily in a function, or for type checking only."""
    names = {module.name for module in modules}
    return {module.name: {name for name in _imported(module, names) if name != module.name} for module in modules}


def _imported(module: Module, names: set[str]) -> Iterator[str]:
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (parent, node.module) if part)
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                if submodule in names or base in names:
                    yield submodule if submodule in names else base
    yield from _lazily_exported(module, names)


def _lazily_exported(module: Module, names: set[str]) -> Iterator[str]:
    """The modules that a `__getattr__` loads: those named in a table such as `_LAZY` beside it."""
    if any(isinstance(node, Function) and node.name == "__getattr__" for node in module.tree.body):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and node.value in names:
                yield node.value


def circles(modules: list[Module]) -> list[list[str]]:
    """The groups of modules that import one another in a circle, largest first (Tarjan's strongly connected
    components).
    """
    graph = import_graph(modules)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for imported in graph[name]:
            if imported not in index:
                visit(imported)
                low[name] = min(low[name], low[imported])
            elif imported in stack:
                low[name] = min(low[name], index[imported])
        if low[name] == index[name]:
            start = stack.index(name)
            components.append(sorted(stack[start:]))
            del stack[start:]

    for name in graph:
        if name not in index:
            visit(name)
    return sorted((component for component in components if len(component) > 1), key=len, reverse=True)


# --- names


def stored_names(module: Module) -> Iterator[tuple[ast.AST, str]]:
    """Every name that is given to something: variables, targets of loops, comprehensions and `with`, arguments, and
    attributes that are stored.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node, node.attr
        elif isinstance(node, ast.arg) and node.arg not in {"self", "cls"}:
            yield node, node.arg
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node, node.name


def vague_names(modules: list[Module]) -> list[tuple[Module, ast.AST, str]]:
    return [
        (module, node, name) for module in modules for node, name in stored_names(module) if name.strip("_") in VAGUE
    ]


def exported(module: Module) -> list[str]:
    """`__all__` of a package, else what it imports or defines in the open."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", None) == "__all__" for target in node.targets):
            return list(ast.literal_eval(node.value))
    return []


def hidden_modules(modules: list[Module]) -> list[str]:
    """Modules that cannot be reached as an attribute of their package, which exports something else of that name."""
    names = {module.name for module in modules}
    return sorted(
        f"{module.name}.{name}"
        for module in modules
        if module.is_package
        for name in exported(module)
        if f"{module.name}.{name}" in names
    )


# --- functions


def parameter_count(function: Function, is_method: bool) -> int:
    """Named parameters that a caller can set: neither `self` or `cls` nor `*args` and `**kwargs`."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    if is_method and positional and positional[0].arg in {"self", "cls", "mcs"}:
        positional = positional[1:]
    return len(positional) + len(arguments.kwonlyargs)


def many_parameters(modules: list[Module]) -> list[tuple[Module, Function, int]]:
    """Functions with eight or more parameters, most first."""
    counted = [
        (module, function, parameter_count(function, is_method))
        for module in modules
        for function, is_method in module.functions
    ]
    return sorted((entry for entry in counted if entry[2] >= MANY_PARAMETERS), key=lambda entry: -entry[2])


def broad_excepts(modules: list[Module]) -> list[tuple[Module, ast.ExceptHandler]]:
    return [
        (module, node)
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", None) in {"Exception", "BaseException"})
    ]


def restating_docstrings(modules: list[Module]) -> list[tuple[Module, ast.AST]]:
    """Docstrings of which at least two in five words of the first sentence, articles and the like aside, are those of
    the name they stand under.
    """
    return [(module, node) for module, node, doc in _docstrings(modules) if _restates(node.name, doc)]


def _docstrings(modules: list[Module]) -> Iterator[tuple[Module, Any, str]]:
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, Function | ast.ClassDef) and (doc := ast.get_docstring(node)):
                yield module, node, doc


_FILLERS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "to",
        "for",
        "in",
        "on",
        "with",
        "and",
        "or",
        "is",
        "are",
        "be",
        "this",
        "that",
        "it",
        "its",
        "as",
        "by",
        "from",
        "get",
        "set",
        "return",
    ]
)


def _restates(name: str, doc: str) -> bool:
    spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
    stems = {_stem(word) for word in spaced.replace("_", " ").split()}
    sentence = re.split(r"\.\s", doc.partition("\n\n")[0])[0]
    words = [word for word in re.findall(r"[a-z0-9]+", sentence.lower()) if word not in _FILLERS]
    return sum(_stem(word) in stems for word in words) >= 0.4 * len(words)


def _stem(word: str) -> str:
    for ending in ("ing", "es", "ed", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


# --- the table


def measures(checkout: Checkout, *, run: bool = True) -> dict[str, Any]:
    """Every row of the table: its label, and a value or a text."""
    modules = checkout.modules
    folders: dict[Path, int] = {}
    for module in modules:
        folders[module.path.parent] = folders.get(module.path.parent, 0) + 1
    largest = max(folders, key=lambda folder: folders[folder])
    parameters = many_parameters(modules)
    names = sum(1 for module in modules for _ in stored_names(module))
    lines = sum(_line_count(module.path) for module in modules)
    lengths = sorted((function.end_lineno or 0) - function.lineno + 1 for m in modules for function, _ in m.functions)
    longest = max(modules, key=lambda module: _line_count(module.path))
    rooms = sorted(((len(exported(m)), m.name) for m in modules if m.is_package), reverse=True)
    documented = sum(1 for _ in _docstrings(modules))
    table: dict[str, Any] = {
        "source files": len(modules),
        "source lines": lines,
        "files in the largest folder": folders[largest],
        "  which is": largest.relative_to(checkout.root).as_posix().partition("src/")[2],
    }
    for package in checkout.packages:
        table[f"modules in the largest circle of {package}"] = max(map(len, circles(checkout.of(package))), default=0)
    if run:
        table |= _executed(checkout)
    return table | {
        "functions with 8 or more parameters": len(parameters),
        "most parameters": max((entry[2] for entry in parameters), default=0),
        "vague names, % of names stored": round(100 * len(vague_names(modules)) / names, 2),
        "most names exported by a package": rooms[0][0],
        "  which is ": rooms[0][1],
        "exports that hide a module": len(hidden_modules(modules)),
        "test lines : source lines": round(_test_lines(checkout) / lines, 2),
        "function length, 90th percentile": lengths[len(lengths) * 9 // 10],
        "longest file, lines": _line_count(longest.path),
        "  which is  ": longest.name,
        "broad excepts per 1,000 lines": round(1000 * len(broad_excepts(modules)) / lines, 2),
        "docstrings that restate the name, %": round(100 * len(restating_docstrings(modules)) / documented, 2),
    }


def _executed(checkout: Checkout) -> dict[str, Any]:
    python = checkout.root / ".venv/bin/python"
    command = [str(python if python.exists() else sys.executable), str(HERE / "trace_optimize_task.py")]
    ended = subprocess.run([*command, str(checkout.root)], capture_output=True, text=True, check=False)
    if ended.returncode:
        print(ended.stderr, file=sys.stderr)
        return {"files in one optimize_task": "failed", "functions in one optimize_task": "failed"}
    trace = json.loads(ended.stdout)
    return {
        "files in one optimize_task": len(trace["files"]),
        "functions in one optimize_task": len(trace["functions"]),
    }


def _test_lines(checkout: Checkout) -> int:
    return sum(_line_count(path) for path in (checkout.root / "tests").rglob("*.py"))


def _line_count(path: Path) -> int:
    return len(path.read_bytes().splitlines())


def places(checkout: Checkout, measure: str, room: str | None) -> list[str]:
    """The places that a measure counts, as `file:line: what`."""
    modules = checkout.room(room) if room else checkout.modules
    at = checkout.at
    if measure == "names":
        return [f"{at(module, node)}: {name}" for module, node, name in vague_names(modules)]
    if measure == "parameters":
        return [f"{at(module, node)}: {node.name} {count}" for module, node, count in many_parameters(modules)]
    if measure == "circles":
        return [" ".join(circle) for package in checkout.packages for circle in circles(checkout.of(package))]
    if measure == "excepts":
        return [f"{at(module, node)}: except" for module, node in broad_excepts(modules)]
    return [f"{at(module, node)}: {getattr(node, 'name', '')}" for module, node in restating_docstrings(modules)]


def print_table(tables: dict[str, dict[str, Any]]) -> None:
    labels = list(dict.fromkeys(label for table in tables.values() for label in table))
    rows = [["", *tables], *([label, *(str(table.get(label, "")) for table in tables.values())] for label in labels)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for label, *values in rows:
        cells = [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        print("  ".join([label.ljust(widths[0]), *cells]).rstrip())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, default=[HERE.parent])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--no-run", action="store_true", help="do not run optimize_task")
    for measure in ("names", "parameters", "circles", "excepts", "docstrings"):
        parser.add_argument(
            f"--{measure}", nargs="?", const="", metavar="ROOM", help=f"list the {measure} that are counted, and where"
        )
    options = parser.parse_args(arguments)
    for measure in ("names", "parameters", "circles", "excepts", "docstrings"):
        if (room := getattr(options, measure)) is not None:
            print("\n".join(places(Checkout(options.checkouts[0]), measure, room or None)))
            return 0
    tables = {str(path): measures(Checkout(path), run=not options.no_run) for path in options.checkouts}
    print(json.dumps(tables, indent=2)) if options.json else print_table(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
