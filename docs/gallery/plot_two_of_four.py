"""
2:4 beside unstructured
=======================

Half of a layer, by five structures. Which weights may compete is the whole difference, and what a structure costs is
how much of the weight's magnitude dies with it.
"""

import digits
import matplotlib.pyplot as plt

import masklib as ml
from masklib.adapters import plot

plt.style.use(digits.STYLE)

# %%
# The weight of a trained layer, once by each structure.

net = digits.network(width=96)
digits.fit(net, steps=300)
weight = net[2].weight.detach()
groups = {
    "unstructured": ml.elements(),
    "each row": ml.rows(),
    "2:4": ml.windows(4),
    "blocks of 4 x 4": ml.blocks((4, 4), p=2),
    "neurons": ml.channels(0, p=2),
}
number = {"2:4": {"keep": 2}, "each row": {"keep": 48}}
scores = ml.scores.magnitude(weight)
masks = {n: ml.compute_mask(scores, groups=by, **number.get(n, {"sparsity": 0.5})) for n, by in groups.items()}

# %%
# Above a corner of 32 x 32 weights; below what is left of the sum of squares.

figure, axes = plt.subplots(2, 5, figsize=(12, 4.6), height_ratios=(4, 1.1))
for (above, below), (name, mask) in zip(axes.T, masks.items()):
    plot.mask(mask[:32, :32], ax=above)
    above.set(title=name, xticks=range(0, 33, 4), yticks=range(0, 33, 4), aspect="equal")
    above.tick_params(length=0, labelbottom=False, labelleft=False)
    if "4" in name:
        above.grid(color="white", linewidth=0.8)
    left = float(weight[mask].square().sum() / weight.square().sum())
    below.barh([0], [1], color="#e5e7eb")
    below.barh([0], [left])
    below.set(xlim=(0, 1), yticks=[], xticks=[], xlabel=f"{left:.0%} of the sum of squares")
    below.spines[:].set_visible(False)
plt.show()
