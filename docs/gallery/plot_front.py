"""
From dense to 99 %
==================

The same network twice, pruned a little more every 200 steps while it trains: once the smallest weights go, once any.
Above, the weights of its second layer when the smallest go: red and blue live, white is dead.
"""

import sys
from functools import partial

import digits
import matplotlib.pyplot as plt

import masklib as ml
from masklib import updates
from masklib.adapters.report import report

plt.style.use(digits.STYLE)
LEVELS, LENGTH = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99), 200


def pruned(method):
    """What is seen at the end of each level: weights of the second layer, bytes, accuracy."""
    found = []

    def look(step, pruning):
        if step % LENGTH == LENGTH - 1:
            weight = ml.apply(net[2].weight.detach(), pruning.masks["2.weight"]).clone()
            found.append((weight, report(pruning).packed_bytes, digits.accuracy(net)))

    net = digits.network(width=64)
    update = updates.gradual(method, lambda step: LEVELS[min(step // LENGTH, len(LEVELS) - 1)])
    digits.fit(net, steps=LENGTH * len(LEVELS), update=update, each=look)
    return found


smallest, any_of_them = pruned(ml.l1_unstructured), pruned(partial(ml.random_unstructured, key=0))

# %%
# Each column is a level; a layer is stored as its living weights and a bit for each.

figure, axes = plt.subplots(2, len(LEVELS), figsize=(13, 6), height_ratios=(10, 17))
figure.get_layout_engine().set(w_pad=0.02, h_pad=0.1, wspace=0)
for ax, covered, (weight, _, _) in zip(*axes, smallest):
    covered.remove()
    most = 0.7 * float(weight.abs().max())
    ax.imshow(weight.numpy(), cmap="RdBu", vmin=-most, vmax=most, interpolation="nearest", aspect="auto")
    ax.set_axis_off()
below = figure.add_subplot(axes[1, 0].get_gridspec()[1, :])
for label, runs, style in (("the smallest weights go", smallest, "o-"), ("weights go at random", any_of_them, "o--")):
    below.plot(range(len(LEVELS)), [100 * right for _, _, right in runs], style, label=label, markersize=7)
ticks = [f"{level:.0%} dead\n{size / 1024:.1f} KiB" for level, (_, size, _) in zip(LEVELS, smallest)]
below.set(xticks=range(len(LEVELS)), xticklabels=ticks, xlim=(-0.5, len(LEVELS) - 0.5), ylim=(0, 102))
below.set_ylabel("handwritten digits\nthat are right (%)")
below.legend(loc="lower left", fontsize=11)
axes[0, 0].set_title("one layer while its network is pruned")
if "--save" in sys.argv:  # the picture of the README
    figure.savefig(digits.STYLE.parents[1] / "front.png", dpi=130)
plt.show()
