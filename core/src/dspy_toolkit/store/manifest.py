"""What `manifest.json` says: where a program comes from and how good it is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dspy_toolkit.errors import BundleError
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.runs.identity import packages
from dspy_toolkit.stats.intervals import Comparison, ScoreEstimate
from dspy_toolkit.store.shape import Shape
from dspy_toolkit.values import plain

__all__ = ["FORMAT", "Manifest"]

FORMAT = 1
"""Goes up when older code can no longer read what is written."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`model` is a name, never an endpoint, a key or a path of somebody's machine. `created` is UTC, ISO 8601.

    `promoted` is whether the paired interval cleared the baseline. `shape` is what the fingerprint is about, field by
    field; `files` the sha256 of the bundle's other files that are loaded; `parent` the version it was made from, if
    any. `models` are those of predictors that bring an LM of their own, by the predictor's name.
    """

    format: int
    task: str
    fingerprint: str
    shape: Shape
    data_digest: str
    rows: dict[str, int]
    metric: str
    optimizer: str
    parameters: dict[str, Any]
    seed: int
    model: str
    adapter: str
    packages: dict[str, str]
    baseline: ScoreEstimate | None
    optimized: ScoreEstimate | None
    comparison: Comparison | None
    promoted: bool
    lm_calls: int
    input_tokens: int
    output_tokens: int
    seconds: float
    parent: str | None
    created: str
    files: dict[str, str]
    models: dict[str, str] = field(default_factory=dict)

    __pydantic_config__ = ConfigDict(extra="forbid")

    @classmethod
    def of(cls, result: OptimizationResult, **rest: Any) -> "Manifest":
        """The manifest of a run; `rest` is what only the bundle knows."""
        return cls(
            format=FORMAT,
            task=result.task,
            data_digest=result.data_digest,
            rows=dict(result.rows),
            metric=result.metric,
            optimizer=result.optimizer,
            parameters=plain(dict(result.parameters)),
            seed=result.seed,
            model=_public_name(result.model),
            models={name: _public_name(model) for name, model in result.models.items()},
            packages=packages(),
            baseline=result.baseline,
            optimized=result.optimized,
            comparison=result.comparison,
            promoted=result.promoted,
            lm_calls=result.usage.lm_calls,
            input_tokens=result.usage.input_tokens,
            output_tokens=result.usage.output_tokens,
            seconds=round(result.seconds, 3),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            **rest,
        )

    @classmethod
    def parse(cls, data: Any, where: str) -> "Manifest":
        """Check what was read from `where`. Raises BundleError naming the key."""
        made_with = data.get("format") if isinstance(data, Mapping) else None
        if made_with is not None and type(made_with) is not int:
            raise BundleError(f"{where} is damaged at format: {made_with!r} is no whole number. Get the bundle again.")
        if isinstance(made_with, int) and made_with > FORMAT:
            raise BundleError(
                f"{where} has format {made_with}; this version reads up to {FORMAT}. Upgrade dspy-toolkit."
            )
        try:
            return _ADAPTER.validate_python(data, strict=False)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise BundleError(f"{where} is damaged at {place}: {first['msg']}. Store the program again.") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain data, in the order of the fields."""
        data = asdict(self)
        if not self.models:  # which older code does not know
            del data["models"]
        return data


_ADAPTER = TypeAdapter(Manifest)


def _public_name(model: str) -> str:
    """The model string without what belongs to one machine: directories and addresses."""
    provider, slash, name = model.partition("/")
    if "://" in name:
        return provider
    if name.startswith(("/", "~", ".")) or "\\" in name or name[1:3] == ":/":
        name = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return f"{provider}{slash}{name}"
