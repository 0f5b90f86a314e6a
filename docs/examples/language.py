"""What pruning in one shot costs a language model: the table and the picture of measured perplexities.

python docs/examples/language.py        # reads language.jsonl, which tests/benchmarks/language.py --out writes
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from math import nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from rich import box
from rich.console import Console
from rich.table import Table

Results = dict[tuple[str, str, int, str], list[float]]  # perplexities by rule, budget, samples, pattern: one a seed
HERE = Path(__file__).parent
PATTERNS = ("50%", "60%", "70%", "2:4")
NAMES = {"magnitude": "magnitude", "ria": "RIA", "wanda": "Wanda", "sparsegpt": "SparseGPT", "admm": "ADMM"}
BUDGETS = {"uniform": "", "owl": ", OWL", "curvature": ", curvature"}
COLOURS = dict(zip(NAMES, ("#707070", "#E69F00", "#D55E00", "#0072B2", "#009E73")))  # Okabe and Ito
DASHES = {"uniform": "-", "owl": ":", "curvature": "--"}
MARKERS = {"uniform": "o", "owl": "s", "curvature": "x"}
FEWEST = 8  # windows of text to calibrate on; with more, a row of its own


def main(arguments: Sequence[str] | None = None) -> Results:
    """Print the table and write the picture of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "language.jsonl")
    parser.add_argument("--out", type=Path, default=HERE / "language.png", help="the picture")
    options = parser.parse_args(arguments)
    dense, results = read(options.results)
    Console(width=120).print(table(dense, results))
    picture(dense, results).savefig(options.out, dpi=80)
    return results


def read(path: Path) -> tuple[float, Results]:
    """The perplexity of the dense model, and those of the others."""
    dense, results = 0.0, defaultdict(list)
    for line in map(json.loads, path.read_text().splitlines()):
        if line["rule"] == "dense":
            dense = line["perplexity"]
        else:
            results[line["rule"], line["budget"], line["samples"], line["pattern"]].append(line["perplexity"])
    return dense, dict(results)


def rows(results: Results) -> dict[tuple[str, str, int], str]:
    """What has a row, worst method first, and its name."""
    found = {key[:3] for key in results}
    order = [(r, b, s) for s in sorted({f[2] for f in found}) for r in NAMES for b in BUDGETS if (r, b, s) in found]
    return {(r, b, s): NAMES[r] + BUDGETS[b] + (f", {s} x 512" if s > FEWEST else "") for r, b, s in order}


def table(dense: float, results: Results) -> Table:
    """Means over seeds of calibration text, with standard deviations; what was not measured is left out."""
    shown = Table("perplexity", *PATTERNS, box=box.MARKDOWN)
    shown.add_row("dense", *[f"{dense:.2f}"] * len(PATTERNS))
    for row, name in rows(results).items():
        shown.add_row(name, *(spread(results.get((*row, pattern), [])) for pattern in PATTERNS))
    return shown


def spread(values: Sequence[float]) -> str:
    """A mean and a standard deviation in words."""
    if len(values) < 2:
        return number(values[0]) if values else ""
    return f"{number(mean(values))} ± {number(stdev(values))}"


def number(value: float) -> str:
    """Two decimals, where these say something."""
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}"


def picture(dense: float, results: Results) -> Figure:
    """Perplexity against sparsity on the left, two of four on the right."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.suptitle("SmolLM2-135M pruned in one shot, no training: perplexity on Python's manual")
    named = {row: name for row, name in rows(results).items() if row[2] == FEWEST}
    for (rule, budget, samples), name in named.items():
        runs = [results.get((rule, budget, samples, pattern), []) for pattern in PATTERNS[:3]]
        means = [mean(run) if run else nan for run in runs]  # no line leads across what was not measured
        left.plot([50, 60, 70], means, DASHES[budget], marker=MARKERS[budget], color=COLOURS[rule], label=name)
    bars = {row: results[(*row, "2:4")] for row in named if (*row, "2:4") in results}
    for (rule, *_), values in bars.items():
        right.barh([NAMES[rule]], [mean(values) - dense], left=dense, color=COLOURS[rule])
        right.annotate(f" {number(mean(values))}", (mean(values), NAMES[rule]), va="center")
    left.axhline(dense, color="black", linestyle=":", label="dense")
    left.set(xlabel="sparsity (%)", ylabel="perplexity", yscale="log", xticks=[50, 60, 70], ylim=(dense * 0.9, 1000))
    left.legend(frameon=False, fontsize="small")
    right.set(title="two of four kept", xlabel="perplexity", xscale="log", xlim=(dense, 4000))
    right.invert_yaxis()
    plain(left.yaxis, [15, 20, 30, 50, 100, 200, 500, 1000])
    plain(right.xaxis, [15, 30, 100, 300, 1000])
    return figure


def plain(axis: Any, ticks: Sequence[int]) -> None:
    """Numbers as people write them."""
    axis.set_ticks(ticks)
    axis.set_ticks([], minor=True)
    axis.set_major_formatter(ScalarFormatter())


if __name__ == "__main__":
    main()
