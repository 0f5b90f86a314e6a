"""
Masks of a layer, round by round
================================

A network on 8 x 8 digits is pruned in eight rounds, on a cubic schedule, all weights in one pool. The first layer has a
column for each pixel. Whole neurons fall silent, and a few pixels keep most of the connections that are left.
"""

import digits
import matplotlib.pyplot as plt

import masklib as ml
from masklib import schedules, updates
from masklib.adapters import plot

plt.style.use(digits.STYLE)

# %%
# ``attach`` prunes while a plain loop trains. ``look`` keeps what stood at the end of each round.

target = schedules.cubic(0.95, start=100, stop=800, every=100)
seen = {}


def look(step, pruning):
    """Keep the mask and the accuracy at the end of each round."""
    if step % 100 == 99:
        seen[step + 1] = pruning.masks["0.weight"], digits.accuracy(net)


net = digits.network()
digits.fit(net, steps=900, update=updates.gradual(ml.l1_unstructured, target), each=look)

# %%
# Above, the mask: a row for each neuron, sorted by how many weights it keeps. Below, how many neurons still look at
# each pixel, from none in white to twice the mean.

shown = [100, 300, 400, 600, 900]
figure, axes = plt.subplots(2, len(shown), figsize=(11, 6), height_ratios=(3, 2))
for (above, below), step in zip(axes.T, shown):
    mask, right = seen[step]
    plot.mask(mask[mask.sum(1).argsort(descending=True)], ax=above)
    above.set(title=f"{ml.sparsity(mask):.0%} dead", xticks=[0, 64], yticks=[0, 100])
    below.imshow(mask.double().mean(0).view(8, 8).numpy(), cmap="Blues", vmin=0, vmax=2 * float(mask.double().mean()))
    below.set(xticks=[], yticks=[], xlabel=f"step {step}\naccuracy {right:.1%}")
axes[0, 0].set(ylabel="neurons")
axes[1, 0].set(ylabel="pixels")
plt.show()
