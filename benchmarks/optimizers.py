"""Which optimizer helps, by how much, and what the rule that chooses one costs.

    python benchmarks/optimizers.py                                       # a scripted LM that learns in context
    python benchmarks/optimizers.py --model mlx/smollm2-135m --tasks iris tickets --optimizers bootstrap random-search

Every run measures the unoptimized program (the baseline) and the optimized one on the same test rows. Uplift is their
paired difference with its 95 % interval, over all seeds' rows. Regret is what the best optimizer of a task gained more
than the one that `auto` chose; the target is a mean of at most 10 % of the mean best uplift. What comes out best of
several is partly luck; fair regret chooses the best on half of the test rows and compares on the other half.
Calls of the search are those without the measuring before and after it.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from in_context import in_context_lm
from optimizer_tasks import TASKS, Task, drawn
from rich.console import Console
from rich.table import Table

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.cache import configure_cache
from dspy_toolkit.metrics import ExactMatch
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.optimize.optimization import optimize
from dspy_toolkit.optimize.optimizer import find_optimizer
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.selection import Situation, choose
from dspy_toolkit.optimize.spec import RunControls, RunSpec
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.stats.intervals import compare
from dspy_toolkit.types import TaskData, resolve

OPTIMIZERS = ("labeled", "bootstrap", "random-search", "mipro", "gepa", "copro", "simba", "knn", "ensemble")
# Budgets of the same order, so that what is compared is what an optimizer makes of a budget.
PARAMETERS: dict[str, dict[str, Any]] = {
    "simba": {"max_steps": 2, "bsize": 8, "num_candidates": 3},
    "copro": {"breadth": 4, "depth": 2},
}


def main() -> None:
    arguments = _arguments()
    configure_cache(arguments.cache or Path(tempfile.mkdtemp(prefix="optimizers-")))
    runs = []
    for name in arguments.tasks:
        try:
            task = TASKS[name]()
        except ImportError:
            print(f"{name} is left out: it needs scikit-learn (pip install scikit-learn).", file=sys.stderr)
            continue
        for optimizer in [*arguments.optimizers, "auto"]:
            seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
            results = [_run(task, optimizer, seed, arguments) for seed in seeds]
            runs.append(_summary(task.name, optimizer, [each for each in results if each is not None]))
            print(_line(runs[-1]), file=sys.stderr)
    report = {"model": arguments.model or "scripted/in-context", "rows": arguments.rows, "seeds": arguments.seeds}
    report |= {"first_seed": arguments.first_seed}
    report |= {"runs": runs, "selection": _selection(runs)}
    print(json.dumps(report, indent=2)) if arguments.json else _show(report)


def _run(task: Task, name: str, seed: int, arguments: argparse.Namespace) -> OptimizationResult | None:
    program = task.program()
    lm, adapter = _lm(task, arguments)
    data = prepare(TaskData(**drawn(task, arguments.rows, seed)), program)
    plugins, reason, parameters = PluginManager(), "", PARAMETERS.get(name, {})
    if name == "auto":
        choice = choose(Situation.of(program, data, Metric(ExactMatch()), lm))
        name, reason, parameters = choice.optimizer, choice.reason, dict(choice.parameters)
    try:
        spec = RunSpec(
            program=program,
            data=data,
            metric=ExactMatch(),
            optimizer=resolve(find_optimizer(plugins, name).entry.optimizer),
            optimizer_name=str(name),
            params=parameters,
            lm=lm,
            adapter=adapter,
            seed=seed,
            task=task.name,
            reason=reason,
        )
        return optimize(spec, RunControls(num_threads=arguments.threads))
    except OptimizationError as error:
        print(f"{task.name} {name} seed {seed}: {error}", file=sys.stderr)
        return None


def _lm(task: Task, arguments: argparse.Namespace) -> tuple[Any, Any]:
    if arguments.model is None:
        return in_context_lm(task.labels, {row["text"]: row["label"] for row in task.rows}), None
    from dspy_toolkit.adapters.guided import GuidedChatAdapter

    connect = resolve(PluginManager().provider(arguments.model).entry.connect)
    return connect(arguments.model, max_tokens=arguments.max_tokens), GuidedChatAdapter()


def _summary(task: str, optimizer: str, results: list[OptimizationResult]) -> dict[str, Any]:
    before = [score for each in results if each.baseline_evaluation for score in each.baseline_evaluation.scores]
    after = [score for each in results if each.optimized_evaluation for score in each.optimized_evaluation.scores]
    return {
        "task": task,
        "optimizer": optimizer,
        "chosen": sorted({each.optimizer for each in results}),
        "reason": results[0].reason if results else "",
        "baseline": fmean(before) if before else None,
        "optimized": fmean(after) if after else None,
        "uplift": asdict(compare(before, after)) if before else None,
        "promoted": sum(each.promoted for each in results),
        "test_rows": len(before),
        "lm_calls": fmean(map(_calls, results)) if results else None,
        "search_calls": fmean(map(_search_calls, results)) if results else None,
        "seconds": sum(each.seconds for each in results),
        "failed": not results,
        "differences": [second - first for first, second in zip(before, after, strict=True)],
    }


def _calls(result: OptimizationResult) -> int:
    return result.lm_calls + result.usage.cache_hits


def _search_calls(result: OptimizationResult) -> int:
    """Without those that measured the program, before and after."""
    measured = [each.usage for each in (result.baseline_evaluation, result.optimized_evaluation) if each is not None]
    if result.optimized_evaluation is result.baseline_evaluation:
        measured = measured[:1]  # nothing was found, and nothing measured again
    return _calls(result) - sum(each.lm_calls + each.cache_hits for each in measured)


def _selection(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Regret of `auto` per task and in relation to the best; `differences` are taken out of the runs.

    `regret` compares with what came out best, which is partly luck. `fair_regret` chooses the best on every second test
    row and measures it on the others, and the other way round; it can be negative.
    """
    differences = {(run["task"], run["optimizer"]): run.pop("differences") for run in runs}
    tasks = []
    for task in dict.fromkeys(run["task"] for run in runs):
        rows = {name: each for (owner, name), each in differences.items() if owner == task and each}
        auto = rows.pop("auto", None)
        if auto is None or not rows:
            continue
        best = max(rows, key=lambda name: fmean(rows[name]))
        fair = []
        for half in (0, 1):
            picked = max(rows, key=lambda name: fmean(rows[name][half::2]))
            fair.append((fmean(rows[picked][1 - half :: 2]), fmean(auto[1 - half :: 2])))
        tasks.append(
            {
                "task": task,
                "best": best,
                "best_uplift": fmean(rows[best]),
                "auto_uplift": fmean(auto),
                "regret": fmean(rows[best]) - fmean(auto),
                "fair_best_uplift": fmean(each for each, _ in fair),
                "fair_regret": fmean(each - chosen for each, chosen in fair),
            }
        )
    return {
        "tasks": tasks,
        "regret_percent": _share(tasks, "regret", "best_uplift"),
        "fair_regret_percent": _share(tasks, "fair_regret", "fair_best_uplift"),
    }


def _share(tasks: list[dict[str, Any]], regret: str, best: str) -> float | None:
    total = sum(each[best] for each in tasks)
    return 100 * sum(each[regret] for each in tasks) / total if total > 0 else None


def _line(run: dict[str, Any]) -> str:
    if run["uplift"] is None:
        return f"{run['task']:<10} {run['optimizer']:<15} failed"
    uplift = run["uplift"]
    return (
        f"{run['task']:<10} {run['optimizer']:<15} {run['baseline']:5.1f} -> {run['optimized']:5.1f}  "
        f"{uplift['difference']:+6.1f} [{uplift['low']:+.1f}, {uplift['high']:+.1f}]  {run['lm_calls']:.0f} calls"
    )


def _show(report: dict[str, Any]) -> None:
    console = Console(width=120)
    seeds = f"seeds {report['first_seed']} to {report['first_seed'] + report['seeds'] - 1}"
    table = Table(title=f"{report['model']}, rows {report['rows']}, {seeds}")
    for column in ("task", "optimizer", "baseline", "optimized", "uplift (95 %)", "promoted", "search", "calls", "s"):
        table.add_column(column, justify="left" if column in ("task", "optimizer") else "right")
    for run in report["runs"]:
        name = f"auto: {', '.join(run['chosen'])}" if run["optimizer"] == "auto" else run["optimizer"]
        if run["uplift"] is None:
            table.add_row(run["task"], name, *["-"] * 7)
            continue
        uplift = run["uplift"]
        table.add_row(
            run["task"], name, f"{run['baseline']:.1f}", f"{run['optimized']:.1f}",
            f"{uplift['difference']:+.1f} [{uplift['low']:+.1f}, {uplift['high']:+.1f}]",
            f"{run['promoted']}/{report['seeds']}", f"{run['search_calls']:.0f}", f"{run['lm_calls']:.0f}",
            f"{run['seconds']:.0f}",
        )  # fmt: skip
    console.print(table)
    selection = report["selection"]
    for each in selection["tasks"]:
        console.print(
            f"{each['task']}: best {each['best']} {each['best_uplift']:+.1f}, auto {each['auto_uplift']:+.1f}, "
            f"regret {each['regret']:.1f}, fair {each['fair_regret']:.1f}"
        )
    for name, key in (
        ("what came out best", "regret_percent"),
        ("the best chosen on other rows", "fair_regret_percent"),
    ):
        if selection[key] is not None:
            console.print(f"mean regret against {name}: {selection[key]:.0f} % of its mean uplift")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model string, mlx/smollm2-135m for example; default: a scripted LM")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS))
    parser.add_argument("--seeds", type=int, default=3, help="how many; default: 3")
    parser.add_argument("--first-seed", type=int, default=0, help="to look at other seeds than those of the report")
    parser.add_argument(
        "--rows", type=_rows, default={"train": 24, "validation": 16, "test": 100}, metavar="TRAIN,VAL,TEST",
        help="default: 24,16,100; fewer test rows where a task has no more",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--cache", type=Path, help="keep LM calls here between runs; default: a temporary folder")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _rows(text: str) -> dict[str, int]:
    return dict(zip(("train", "validation", "test"), map(int, text.split(",")), strict=True))


if __name__ == "__main__":
    main()
