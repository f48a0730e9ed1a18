"""The gate and the intervals, calibrated: coverage, false promotion beside power, by kind of score and number of rows.

    python benchmarks/gate.py --trials 200

A program that is no better may pass the gate in at most 3 of 100 runs, and a 95 % interval must hold the true mean
in at least 93 of 100. Exits with 1 where one does not, by more than chance explains.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import comb, sqrt

from dspy_toolkit.stats.intervals import compare, estimate

Draw = Callable[[random.Random], float]

SCORES: dict[str, tuple[Draw, float]] = {
    "right or wrong, p=.1": (lambda source: float(source.random() < 0.1), 0.1),
    "right or wrong, p=.5": (lambda source: float(source.random() < 0.5), 0.5),
    "right or wrong, p=.9": (lambda source: float(source.random() < 0.9), 0.9),
    "uniform": (lambda source: source.random(), 0.5),
    "beta(.5, .5)": (lambda source: source.betavariate(0.5, 0.5), 0.5),
    "beta(2, 5)": (lambda source: source.betavariate(2, 5), 2 / 7),
    "beta(.3, 3)": (lambda source: source.betavariate(0.3, 3), 0.3 / 3.3),
    "half 0, half beta(5, 1)": (lambda source: float(source.random() < 0.5) * source.betavariate(5, 1), 5 / 12),
}
GAINS = (0.1, 0.2, 0.3, 0.5)
ROWS = (4, 8, 16, 40, 100)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tables: dict[str, dict[str, list[float]]] = {}

    def fill(title: str, cells: Mapping[str, Callable[[int], float]]) -> None:
        tables[title] = {name: [cell(rows) for rows in options.rows] for name, cell in cells.items()}
        if not options.json:
            _print(title, options.rows, tables[title])

    trials = options.trials
    fill("coverage in %", {name: partial(_coverage, *score, trials=trials) for name, score in SCORES.items()})
    fill("least coverage in % of right or wrong, over p", {"exact": _least_coverage})
    fill(
        "false promotion in %",
        {name: partial(_passed, draw, draw, trials=trials) for name, (draw, _) in SCORES.items()},
    )
    fill(
        "power in %: promoted, where half of the rows were right and the gain is real",
        {f"+{100 * gain:.0f} points": partial(_passed, *_better(gain), trials=trials) for gain in GAINS},
    )
    if options.json:
        print(json.dumps({"rows": options.rows, "trials": trials, **tables}))
    chance = 2.6 * sqrt(0.05 * 0.95 / options.trials) * 100  # 1 in 100
    covered = all(share >= 93 - chance for row in tables["coverage in %"].values() for share in row)
    promoted = all(share <= 3 + chance for row in tables["false promotion in %"].values() for share in row)
    return 0 if covered and promoted else 1


def _coverage(draw: Draw, mean: float, rows: int, trials: int) -> float:
    source = random.Random(rows)
    intervals = [estimate([100 * draw(source) for _ in range(rows)]) for _ in range(trials)]
    return 100 * sum(interval.low <= 100 * mean <= interval.high for interval in intervals) / trials


def _least_coverage(rows: int) -> float:
    intervals = [estimate([100.0] * right + [0.0] * (rows - right)) for right in range(rows + 1)]

    def coverage(p: float) -> float:
        return sum(
            comb(rows, right) * p**right * (1 - p) ** (rows - right)
            for right, interval in enumerate(intervals)
            if interval.low <= 100 * p <= interval.high
        )

    return 100 * min(coverage(step / 200) for step in range(2, 199))


def _passed(first: Draw, second: Draw, rows: int, trials: int) -> float:
    """How often the second passes the gate against the first."""
    source = random.Random(rows)
    comparisons = [
        compare([100 * first(source) for _ in range(rows)], [100 * second(source) for _ in range(rows)])
        for _ in range(trials)
    ]
    return 100 * sum(comparison.clears for comparison in comparisons) / trials


def _better(gain: float) -> tuple[Draw, Draw]:
    return (lambda source: float(source.random() < 0.5)), (lambda source: float(source.random() < 0.5 + gain))


def _print(title: str, rows: Sequence[int], table: dict[str, list[float]]) -> None:
    print(f"\n{title}\n{'rows':26}" + "".join(f"{n:8}" for n in rows))
    for name, shares in table.items():
        print(f"{name:26}" + "".join(f"{share:8.1f}" for share in shares), flush=True)


if __name__ == "__main__":
    sys.exit(main())
