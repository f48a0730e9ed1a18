"""docs/architecture.md names what exists, and every room."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
SOURCES = [
    ROOT / "core/src/dspy_toolkit",
    ROOT / "providers/mlx/src/dspy_toolkit_mlx",
    ROOT / "plugins/lora/src/dspy_toolkit_lora",
]
IN_WORDS = re.findall(r"`([\w./]+(?:\.py|/))`", TEXT)
IN_DRAWINGS = re.findall(r"^ +([\w/]+\.py)\b", TEXT, flags=re.MULTILINE)


@pytest.mark.parametrize("path", sorted({*IN_WORDS, *IN_DRAWINGS}))
def test_what_it_names_exists(path):
    assert any((folder / path).exists() for folder in (*SOURCES, ROOT)), path


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_it_names_every_room(source):
    rooms = {path.name + ("/" if path.is_dir() else "") for path in source.iterdir() if path.suffix in ("", ".py")}
    rooms -= {"__init__.py", "__pycache__/", "py.typed"}
    assert sorted(room for room in rooms if f"`{room}`" not in TEXT and f"{source.name}/{room}" not in TEXT) == []


def test_a_behaviour_stands_in_the_room_it_is_said_to_be_in():
    rows = re.findall(r"^\| .+? \| `([\w/]+)/`(?: \(MLX\))? \| `([\w/.]+)` \|$", TEXT, flags=re.MULTILINE)
    assert len(rows) >= 20
    assert [(room, file) for room, file in rows if Path(file).parts[0] != Path(room).parts[0]] == []
