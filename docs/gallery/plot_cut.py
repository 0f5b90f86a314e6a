"""
Where the cut falls
===================

All layers in one pool, or each on its own: the same share dies, but not of the same layers. The dashed line is the
lowest magnitude that stays.
"""

import digits
import matplotlib.pyplot as plt

import masklib as ml
from masklib.adapters import plot

plt.style.use(digits.STYLE)
net = digits.network()
digits.fit(net, steps=300)
weights = {name: p.detach() for name, p in net.named_parameters() if p.dim() > 1}

# %%
# One call is one pool; ``layerwise`` makes a pool of each tensor; ``erk`` gives small layers more.

kept = ml.budgets.kept(weights, ml.budgets.erk(weights, 0.8))
masks = {
    "one pool": ml.l1_unstructured(weights, sparsity=0.8),
    "each layer by itself": ml.layerwise(ml.l1_unstructured)(weights, sparsity=0.8),
    "each layer, by ERK": ml.layerwise(ml.l1_unstructured)(weights, keep=kept),
}

# %%
# A row for each way, a column for each layer, and the sparsity of the layers at the end.

scores = ml.scores.magnitude(weights)
figure, axes = plt.subplots(3, 4, figsize=(12, 6.6), width_ratios=(3, 3, 3, 2))
for row, (way, found) in zip(axes, masks.items()):
    for ax, name in zip(row, weights):
        plot.scores(scores[name], found[name], bins=60, ax=ax)
        ax.set(xlim=(0, 0.5), yticks=[], ylabel=way if name == "0.weight" else "", xlabel="")
        ax.get_legend().remove()
    plot.sparsity(found, ax=row[3])
    row[3].get_legend().remove()
    row[3].set(xlabel="")
for ax, name in zip(axes[0], (*weights, "dead share")):
    ax.set_title(name)
for ax, label in zip(axes[2], ("magnitude", "magnitude", "magnitude", "dead share")):
    ax.set_xlabel(label)
axes[0, 0].legend()
plt.show()
