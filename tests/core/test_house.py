"""The layout of the code, by the script that measures it: no circles, small folders, names that say something."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load_script():
    spec = importlib.util.spec_from_file_location("measure_house", ROOT / "scripts" / "measure_house.py")
    script = importlib.util.module_from_spec(spec)
    sys.modules["measure_house"] = script  # its data classes look their module up
    spec.loader.exec_module(script)
    return script


house = load_script()
checkout = house.Checkout(ROOT)


@pytest.fixture
def package(tmp_path):
    """Modules written to disk: `package({"a.py": "import p.b"})` is the package `p`."""

    def write(files):
        for name, text in {"__init__.py": "", **files}.items():
            path = tmp_path / "core" / "src" / "p" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return house.Checkout(tmp_path).modules

    return write


# --- the code


def test_no_folder_holds_more_than_fourteen_source_files():
    folders = {}
    for module in checkout.modules:
        folders.setdefault(module.path.parent, []).append(module.path.name)
    assert {str(folder): len(names) for folder, names in folders.items() if len(names) > 14} == {}


@pytest.mark.parametrize("package", checkout.packages)
def test_no_modules_import_one_another_in_a_circle(package):
    assert house.circles(checkout.of(package)) == []


def test_at_most_six_functions_have_eight_parameters_or_more():
    functions = [f"{module.name}.{node.name}" for module, node, _ in house.many_parameters(checkout.modules)]
    assert len(functions) <= 6, functions


def test_no_export_hides_a_module():
    assert house.hidden_modules(checkout.modules) == []


# --- what it is measured with


@pytest.mark.parametrize(
    "closing",
    [
        "import p.a",
        "from p import a",
        "from p.a import f",
        "from .a import f",
        "from . import a",
        "def late():\n    from p.a import f",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import f",
        'from importlib import import_module\ndef __getattr__(name):\n    return import_module("p.a")',
    ],
)
def test_a_circle_is_seen_however_it_is_closed(package, closing):
    modules = package({"a.py": "from p import b\ndef f(): pass", "b.py": "from p import c", "c.py": closing})
    assert house.circles(modules) == [["p.a", "p.b", "p.c"]]


def test_imports_in_one_direction_are_no_circle(package):
    modules = package({"a.py": "from p import b, c", "b.py": "from p import c", "c.py": "from p.missing import x"})
    assert house.circles(modules) == []


def test_two_circles_are_two_the_larger_first(package):
    modules = package(
        {"a.py": "import p.b", "b.py": "import p.a", "c.py": "import p.d", "d.py": "import p.e", "e.py": "import p.c"}
    )
    assert house.circles(modules) == [["p.c", "p.d", "p.e"], ["p.a", "p.b"]]


@pytest.mark.parametrize(
    "text",
    [
        "found = 1",
        "for found in []: pass",
        "x = [1 for found in []]",
        "def f(found): pass",
        "def f(*, found=1): pass",
        "with f() as found: pass",
        "if (found := 1): pass",
        "class C:\n    def f(self): self._found = 1",
        "try: pass\nexcept E as found: pass",
        "match x:\n    case [found]: pass",
        "x, (found, y) = 1, (2, 3)",
    ],
)
def test_a_vague_name_is_seen_wherever_it_is_stored(package, text):
    modules = package({"a.py": text, "b.py": "print(found.each, unfounded)"})
    assert [name.strip("_") for _, _, name in house.vague_names(modules)] == ["found"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("def f(a, b, /, c, d, *, e, f, g, h): pass", 8),
        ("class C:\n    def f(self, a, b, c, d, e, f, g, h, *args, **kwargs): pass", 8),
        ("class C:\n    def f(self, a, b, c, d, e, f, g): pass", None),
        ("def f(a, b, c, d, e, f, g, *args, **kwargs): pass", None),
    ],
)
def test_parameters_that_a_caller_names_are_counted(package, text, count):
    counts = [entry[2] for entry in house.many_parameters(package({"a.py": text}))]
    assert counts == ([] if count is None else [count])


def test_an_export_named_like_a_module_beside_it_is_seen(package):
    modules = package({"__init__.py": '__all__ = ["a", "b"]', "a.py": "", "c.py": ""})
    assert house.hidden_modules(modules) == ["p.a"]


def test_a_docstring_that_says_only_its_name_is_seen(package):
    modules = package(
        {
            "a.py": 'def load_state():\n    """Loads the state."""\n'
            'def save():\n    """Raises OSError when the disk is full."""\n'
        }
    )
    assert [node.name for _, node in house.restating_docstrings(modules)] == ["load_state"]
