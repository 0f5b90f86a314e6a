"""
Accuracy against sparsity, ten methods
======================================

From random masks to lottery tickets: each method has the same network, the same images and as many training steps, but
for the lottery, which has as many in each of its rounds. The methods are those of ``docs/examples/methods.py``.
"""

import sys
from pathlib import Path

import digits
import matplotlib.pyplot as plt

sys.path.append(str(Path(digits.__file__).parents[1] / "examples"))
import methods
import training

plt.style.use(digits.STYLE)
SPARSITIES = (0.8, 0.9, 0.95, 0.98)

# %%
# Every method is a function ``method(task, sparsity) -> state``. One seed and 150 steps: a difference of a point says
# nothing here. The page on ten methods has five seeds, two networks and the budget that it takes.

images = training.digits()
task = training.make_task(images, training.lenet(pixels=64), seed=0, steps=150)
dense = training.accuracy(task, methods.dense(task))
found = {
    name: [100 * training.accuracy(task, method(task, sparsity)) for sparsity in SPARSITIES]
    for name, method in methods.METHODS.items()
}

# %%
# A panel for each family, all curves in grey behind its own.

families = {"at random": methods.RANDOM, **methods.FAMILIES}
figure, axes = plt.subplots(1, 4, figsize=(12, 4), sharey=True)
for ax, (family, members) in zip(axes, families.items()):
    for curve in found.values():
        ax.plot(range(4), curve, color="#e5e7eb", linewidth=1.5)
    for name in members:
        ax.plot(range(4), found[name], "o-", label=name)
    ax.axhline(100 * dense, color="C5", linestyle=":", linewidth=1.2)
    ax.set(
        title=family, xticks=range(4), xticklabels=[f"{s:.0%}" for s in SPARSITIES], xlabel="sparsity", ylim=(55, 100)
    )
    ax.legend()
axes[0].set(ylabel="accuracy (%)")
axes[0].annotate("dense", (0, 100 * dense), (0, 3), textcoords="offset points", color="C5", fontsize=9)
plt.show()
