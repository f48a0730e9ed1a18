"""A bundle's README.md: what it is, how good it is, how to use it."""

from dspy_toolkit.stats.intervals import ScoreEstimate
from dspy_toolkit.store.manifest import Manifest

__all__ = ["readme"]


def readme(manifest: Manifest) -> str:
    """The manifest in plain words."""
    rows = ", ".join(f"{count} {name}" for name, count in manifest.rows.items())
    parameters = ", ".join(f"{name}={value}" for name, value in manifest.parameters.items()) or "none"
    packages = ", ".join(f"{name} {version}" for name, version in manifest.packages.items())
    return f"""# {manifest.task or "An optimized program"}

A DSPy program, optimized on {manifest.created} with `{manifest.optimizer}` for the model `{manifest.model}`.

{_verdict(manifest)}

| | score (0-100) | 95 % interval | rows |
|---|---|---|---|
{_row("before", manifest.baseline)}
{_row("after", manifest.optimized)}

The score is `{manifest.metric}` on rows the optimizer did not see. It was made from {rows} rows (digest
`{manifest.data_digest[:16]}`) with seed {manifest.seed}; the optimizer's parameters: {parameters}.
The run took {manifest.lm_calls} LM calls and {manifest.seconds:.0f} seconds.

Use it with `dspy-toolkit run` and this directory's path, or from Python:

```python
from dspy_toolkit import DSPyFramework

program = DSPyFramework().load("<path of this directory>")
```

It holds no model, no address and no key: the model is chosen where it is loaded. `prompt.md` shows what it sends.
Made with {packages}.
"""


def _row(name: str, score: ScoreEstimate | None) -> str:
    if score is None:
        return f"| {name} | not measured | | |"
    return f"| {name} | {score.score:.1f} | {score.low:.1f} to {score.high:.1f} | {score.n} |"


def _verdict(manifest: Manifest) -> str:
    comparison = manifest.comparison
    if comparison is None:
        return "It is a candidate: its run was stopped before it was measured, so nobody knows how good it is."
    difference = f"{comparison.difference:+.1f} (95 % interval {comparison.low:+.1f} to {comparison.high:+.1f})"
    counts = f"better on {comparison.wins} rows, worse on {comparison.losses}, equal on {comparison.ties}"
    if manifest.promoted:
        return f"It is better than the program it started from: {difference}, {counts}."
    return (
        f"It is a candidate: the difference to the program it started from, {difference}, {counts}, "
        "may be luck or worse, because the interval does not lie above zero."
    )
