"""Settings: one class, four layers, and where each value came from.

    defaults  <  dspy-toolkit.toml, or [tool.dspy-toolkit] in pyproject.toml  <  DSPY_TOOLKIT_* variables  <  arguments

The file is the first one found in the working folder or the folders above it. Nested settings are tables in the file
and double underscores in variables: `[models.fast] model = "mlx/..."` is `DSPY_TOOLKIT_MODELS__FAST__MODEL`.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dspy_toolkit.errors import SettingsError, UnknownNameError, closest_first
from dspy_toolkit.redaction import public_uri

__all__ = ["DSPyConfig", "ModelProfile", "ProjectConfig", "Setting", "TrackingConfig"]

FILE = "dspy-toolkit.toml"
PREFIX = "DSPY_TOOLKIT_"

# Variables with our prefix that are no settings: they steer plugins and native libraries before settings are read.
_OTHER_VARIABLES = {"PLUGINS", "STRICT", "BLAS", "CONFIG"}


class ModelProfile(BaseModel):
    """A named model choice, `[models.<name>]`. Programs refer to the name, so bundles carry no endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="model string, provider first: 'mlx/smollm2-135m'")
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="sampling temperature; none: the provider's"
    )
    max_tokens: int | None = Field(default=None, gt=0, description="most tokens per completion; none: the provider's")
    cache: bool = Field(default=True, description="answer repeated calls from DSPy's cache")


class ProjectConfig(BaseModel):
    """Settings of one project, `[projects.<name>]`; they win over the general ones for its tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(default=None, description="model string or profile name")
    optimizer: str | None = Field(default=None, description="optimizer name")
    optimizer_params: dict[str, Any] = Field(default_factory=dict, description="parameters of that optimizer")
    rows: dict[Literal["train", "validation", "test"], int] = Field(
        default_factory=dict, description="rows drawn from each set: train, validation, test"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="whatever the project's plugin reads")


class TrackingConfig(BaseModel):
    """Where runs are shown, `[tracking]`: an MLflow server or database. `dump` and `repr` never tell a password."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool | None = Field(default=None, description="send runs to MLflow; none: if it is installed")
    uri: str | None = Field(
        default=None, repr=False, description="MLflow server or database; none: a SQLite file beside the runs"
    )
    experiment: str | None = Field(default=None, description="MLflow experiment; none: the name of the task's project")
    traces: int = Field(
        default=200, ge=0, description="calls per run that become traces, beside each that failed; 0: none at all"
    )

    @field_serializer("uri")
    def _public(self, uri: str | None) -> str | None:
        return uri and public_uri(uri)


class DSPyConfig(BaseSettings):
    """The settings of a framework and all its projects.

    Raises SettingsError, never pydantic's error: the message names the file and line, variable or argument, and the
    closest known key. Relative paths in a file are relative to that file's folder.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, env_ignore_empty=True
    )

    model: str = Field(default="mlx/smollm2-135m", description="default model: a model string or the name of a profile")
    models: dict[str, ModelProfile] = Field(default_factory=dict, description="named model choices")
    projects: dict[str, ProjectConfig] = Field(default_factory=dict, description="settings per project")
    adapter: Literal["chat", "json"] = Field(default="chat", description="prompt and answer format")
    store: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("dspy-toolkit") / "programs",
        description="folder of optimized programs",
    )
    runs: Path = Field(
        default_factory=lambda given: given["store"].parent / "runs",
        description="folder of the records of runs; beside the programs unless set",
    )
    cache: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("dspy-toolkit"),
        description="folder of what can be made again: LM answers, converted models, trial results",
    )
    seed: int = Field(default=0, ge=0, description="seed of every draw")
    num_threads: int = Field(default=4, ge=1, le=256, description="examples evaluated at the same time")
    max_errors: int | None = Field(
        default=None, ge=0, description="failing rows a run may have; one more ends it; none: any number"
    )

    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="where runs are shown: MLflow")

    def __init__(self, *, config_file: Path | str | None = None, **arguments: Any):
        """`config_file` replaces the search for one; `arguments` win over everything."""
        path = Path(config_file) if config_file is not None else find_file()
        file = _read(path) if path is not None else {}
        layers = _Layers(path=path, file=file, arguments=arguments)
        layers.check_variables(type(self))
        _building.append(layers)
        try:
            super().__init__(**arguments)
        except ValidationError as error:
            raise SettingsError(layers.explain(error, type(self))) from None
        finally:
            _building.pop()
        object.__setattr__(self, "_layers", layers)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        layers = _building[-1]
        layers.environment = _Rows(settings_cls, env_settings())
        return init_settings, layers.environment, _Rows(settings_cls, layers.file)

    @field_validator("store", "runs", "cache")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @property
    def file(self) -> Path | None:
        """The settings file that was read, or None."""
        return self._layers.path  # type: ignore[attr-defined]

    def sources(self) -> list["Setting"]:
        """Every value with its key and where it came from, in the order of the fields."""
        layers: _Layers = self._layers  # type: ignore[attr-defined]
        return [
            Setting(key=".".join(key), value=value, source=layers.source(key))
            for key, value in _flatten(self.model_dump(mode="json"))
        ]

    def profile(self, name: str | None = None) -> ModelProfile:
        """The profile called `name`; a model string stands for itself; None is the default model.

        Raises UnknownNameError for a name that is neither a profile nor a model string (which has a slash).
        """
        name = name or self.model
        if name in self.models:
            return self.models[name]
        if "/" in name:
            return ModelProfile(model=name)
        raise UnknownNameError(
            "model profile",
            name,
            self.models,
            remedy="Name a profile of [models.<name>] in the settings, or a model string such as 'mlx/smollm2-135m'.",
        )

    def project(self, name: str) -> ProjectConfig:
        """The settings of a project; defaults for one that has none."""
        return self.projects.get(name, ProjectConfig())


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of `config show`."""

    key: str
    value: Any
    source: str


def find_file(start: Path | None = None) -> Path | None:
    """The settings file that applies in `start` (default: the working folder); DSPY_TOOLKIT_CONFIG wins."""
    if named := os.environ.get(f"{PREFIX}CONFIG"):
        return Path(named)
    start = (start or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder / FILE
        pyproject = folder / "pyproject.toml"
        if pyproject.is_file() and "[tool.dspy-toolkit" in pyproject.read_text(encoding="utf-8", errors="replace"):
            return pyproject
    return None


class _Rows(PydanticBaseSettingsSource):
    """A layer whose values are already known."""

    def __init__(self, settings_cls: type[BaseSettings], rows: Mapping[str, Any]):
        super().__init__(settings_cls)
        self.rows = rows

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self.rows.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(self.rows)


class _Layers:
    """What was read for one DSPyConfig, kept to say where values and mistakes came from."""

    def __init__(self, *, path: Path | None, file: dict[str, Any], arguments: dict[str, Any]):
        self.path = path
        self.file = file
        self.arguments = arguments
        self.environment: _Rows | None = None

    def source(self, key: tuple[str, ...]) -> str:
        if _has(self.arguments, key):
            return "argument"
        if self.environment is not None and _has(self.environment.rows, key):
            return PREFIX + "__".join(key).upper()
        if self.path is not None and _has(self.file, key):
            line = _line_of(self.path, key)
            return f"{self.path}:{line}" if line else str(self.path)
        return "default"

    def check_variables(self, cls: type[BaseSettings]) -> None:
        """Raise SettingsError for a DSPY_TOOLKIT_ variable that is no setting."""
        known = {name.upper() for name in cls.model_fields}
        for variable in sorted(os.environ):
            word = variable.removeprefix(PREFIX).split("__")[0]
            if variable.startswith(PREFIX) and word not in known | _OTHER_VARIABLES:
                close = closest_first(word, known | _OTHER_VARIABLES)
                names = ", ".join(PREFIX + name for name in close)
                raise SettingsError(f"{variable}: no such setting. Known, closest first: {names}.")

    def explain(self, error: ValidationError, cls: type[BaseSettings]) -> str:
        messages = []
        for problem in error.errors():
            key = tuple(str(part) for part in problem["loc"])
            place = next((at for n in range(len(key), 0, -1) if (at := self.source(key[:n])) != "default"), "argument")
            name = ".".join(key)
            if problem["type"] == "extra_forbidden":
                known = closest_first(key[-1], _fields_at(cls, key[:-1]))
                messages.append(f"{place}: unknown setting {name!r}. Known here, closest first: {', '.join(known)}.")
            elif problem["type"] == "missing":
                messages.append(f"{place}: {name} is missing.")
            else:
                messages.append(f"{place}: {name} = {problem['input']!r}: {problem['msg']}.")
        return " ".join(messages)


_building: list[_Layers] = []


def _read(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings file {path} is not valid TOML: {error}.") from error
    if path.name == "pyproject.toml":
        document = document.get("tool", {}).get("dspy-toolkit", {})
    for key in ("store", "runs", "cache"):
        if isinstance(document.get(key), str):
            document[key] = str(path.absolute().parent / Path(document[key]).expanduser())
    return document


def _flatten(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, (*above, key))
        else:
            yield (*above, key), value


def _has(values: Any, key: tuple[str, ...]) -> bool:
    for part in key:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _fields_at(cls: type[BaseModel], key: tuple[str, ...]) -> list[str]:
    """The fields allowed at a key: of DSPyConfig itself, or of the profile or project that the key is in."""
    inside = {"models": ModelProfile, "projects": ProjectConfig, "tracking": TrackingConfig}
    return list((inside.get(key[0], cls) if key else cls).model_fields)


def _line_of(path: Path, key: tuple[str, ...]) -> int | None:
    """The line (from 1) of a TOML file that sets `key`, or None when it is written in a way this cannot follow."""
    prefix = ("tool", "dspy-toolkit") if path.name == "pyproject.toml" else ()
    wanted, table = (*prefix, *key), ()
    closest = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$", line):
            table = _dotted(header[1])
            if wanted[: len(table)] == table and len(table) > len(prefix):
                closest = number
        elif assignment := re.match(r"""\s*([\w."'-]+(?:\s*\.\s*[\w"'-]+)*)\s*=""", line):
            here = (*table, *_dotted(assignment[1]))
            if wanted[: len(here)] == here:
                return number
    return closest


def _dotted(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))
