"""Precedence, provenance, and errors that name the place."""

from pathlib import Path

import pytest

from dspy_toolkit.errors import SettingsError, UnknownNameError
from dspy_toolkit.settings import DSPyConfig, ModelProfile, ProjectConfig, TrackingConfig

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("SEED", "MODEL", "CACHE", "CONFIG"):
        monkeypatch.delenv(f"DSPY_TOOLKIT_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, text, name="dspy-toolkit.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def source(config, key):
    return next(setting.source for setting in config.sources() if setting.key == key)


def test_each_layer_wins_over_the_one_before(folder, monkeypatch):
    assert (DSPyConfig().seed, source(DSPyConfig(), "seed")) == (0, "default")
    path = write(folder, "# first line\nseed = 3\n")
    assert (DSPyConfig().seed, source(DSPyConfig(), "seed")) == (3, f"{path}:2")
    monkeypatch.setenv("DSPY_TOOLKIT_SEED", "5")
    assert (DSPyConfig().seed, source(DSPyConfig(), "seed")) == (5, "DSPY_TOOLKIT_SEED")
    assert (DSPyConfig(seed=7).seed, source(DSPyConfig(seed=7), "seed")) == (7, "argument")


def test_tables_of_two_layers_are_merged(folder, monkeypatch):
    path = write(folder, '[models.fast]\nmodel = "mlx/a"\ntemperature = 0.5\n')
    monkeypatch.setenv("DSPY_TOOLKIT_MODELS__FAST__MAX_TOKENS", "9")
    config = DSPyConfig()
    assert config.models["fast"] == ModelProfile(model="mlx/a", temperature=0.5, max_tokens=9)
    assert source(config, "models.fast.temperature") == f"{path}:3"
    assert source(config, "models.fast.max_tokens") == "DSPY_TOOLKIT_MODELS__FAST__MAX_TOKENS"


def test_the_file_is_looked_for_upwards_and_pyproject_counts(folder, monkeypatch):
    path = write(folder, '[project]\nname = "x"\n\n[tool.dspy-toolkit]\nseed = 4\n', "pyproject.toml")
    below = folder / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    config = DSPyConfig()
    assert config.seed == 4
    assert source(config, "seed") == f"{path}:5"


def test_relative_folders_in_a_file_are_relative_to_it(folder, monkeypatch):
    write(folder, 'store = "programs"\n')
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert DSPyConfig().store == folder / "programs"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("model = 'mlx/a'\nsed = 1\n", 2, ["'sed'", "closest first: seed"]),
        ("[models.fast]\nmodle = 'mlx/a'\n", 2, ["models.fast.modle", "closest first: model"]),
        ("[projects.lora]\nrow = {test = 1}\n", 2, ["projects.lora.row", "closest first: rows"]),
        ("seed = -1\n", 1, ["seed = -1", "greater than or equal to 0"]),
        ("[models.fast]\nmodel = 'mlx/a'\ntemperature = 9.0\n", 3, ["temperature = 9.0"]),
    ],
)
def test_a_mistake_in_the_file_is_named_with_file_and_line(folder, text, line, words):
    path = write(folder, text)
    with pytest.raises(SettingsError) as caught:
        DSPyConfig()
    for word in (f"{path}:{line}:", *words):
        assert word in str(caught.value)


def test_other_mistakes_are_named(folder, monkeypatch):
    path = write(folder, "seed = [\n")
    with pytest.raises(SettingsError, match="not valid TOML"):
        DSPyConfig()
    path.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        DSPyConfig(config_file=path)
    monkeypatch.setenv("DSPY_TOOLKIT_SED", "1")
    with pytest.raises(SettingsError, match=r"DSPY_TOOLKIT_SED: no such setting.*closest first: DSPY_TOOLKIT_SEED"):
        DSPyConfig()
    monkeypatch.delenv("DSPY_TOOLKIT_SED")
    monkeypatch.setenv("DSPY_TOOLKIT_SEED", "many")
    with pytest.raises(SettingsError, match="DSPY_TOOLKIT_SEED: seed = 'many'"):
        DSPyConfig()
    with pytest.raises(SettingsError, match="argument: unknown setting 'modle'"):
        DSPyConfig(modle="x", seed=1)


def test_a_profile_is_a_name_or_a_model_string(folder):
    write(folder, 'model = "fast"\n[models.fast]\nmodel = "mlx/a"\n')
    config = DSPyConfig()
    assert config.profile() == config.profile("fast") == ModelProfile(model="mlx/a")
    assert config.profile("mlx/b").model == "mlx/b"
    with pytest.raises(UnknownNameError, match=r"'fats'.*Did you mean 'fast'"):
        config.profile("fats")


def test_every_setting_is_in_the_docs_with_its_description():
    text = DOCS.read_text(encoding="utf-8")
    for cls in (DSPyConfig, ModelProfile, ProjectConfig, TrackingConfig):
        for name, field in cls.model_fields.items():
            assert f"| `{name}` | {field.description} |" in text


def test_rows_of_a_set_that_does_not_exist_are_an_error(tmp_path):
    file = tmp_path / "dspy-toolkit.toml"
    file.write_text("[projects.lora.rows]\ntset = 3\n")
    with pytest.raises(SettingsError, match=r"dspy-toolkit.toml:\d+.*tset.*'train', 'validation' or 'test'"):
        DSPyConfig(config_file=file)
