"""One version of one optimized program as a directory of plain files, whole or not there.

program.json    DSPy's state, without an LM
manifest.json   what it was made from and how good it is
prompt.md       the exact messages the program sends for one example
README.md       the same in plain words
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.scores import Comparison, ScoreEstimate

__all__ = ["FORMAT", "Bundle", "Manifest", "load_program", "read_bundle", "write_bundle"]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` says. `model` is a name, never an endpoint or a key; `created` is UTC, ISO 8601."""

    format: int
    task: str
    fingerprint: str
    data_digest: str
    metric: str
    optimizer: str
    parameters: Mapping[str, Any]
    rows: Mapping[str, int]
    seed: int
    model: str
    packages: Mapping[str, str]
    baseline: ScoreEstimate | None
    optimized: ScoreEstimate | None
    comparison: Comparison | None
    promoted: bool
    parent: str | None
    created: str


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle on disk: where it is and its manifest."""

    path: Path
    manifest: Manifest


def write_bundle(
    path: Path,
    result: OptimizationResult,
    *,
    example_inputs: Mapping[str, Any],
    adapter: dspy.Adapter | None = None,
    parent: str | None = None,
) -> Bundle:
    """Write a bundle to `path`, which must not exist: to a temporary name beside it, synced, renamed. Raises BundleError."""
    raise NotImplementedError


def read_bundle(path: Path) -> Bundle:
    """Read and check a bundle's manifest. Raises BundleError naming the file that is missing or damaged."""
    raise NotImplementedError


def load_program(bundle: Bundle, factory: Callable[[], dspy.Module]) -> dspy.Module:
    """Build the program with `factory` and load the bundle's state into it; it sends the same prompt byte for byte.

    Raises FingerprintError with what changed, field by field; BundleError for a damaged state.
    """
    raise NotImplementedError
