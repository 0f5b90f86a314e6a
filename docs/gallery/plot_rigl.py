"""
RigL's connections move
=======================

A network that is 90 % sparse from its first step to its last. Every twenty steps RigL drops the weakest connections and
grows as many where the gradient is largest. It begins at random, and ends at the pixels that tell digits apart.
"""

import digits
import matplotlib.pyplot as plt
import torch

import masklib as ml
from masklib import updates
from masklib.adapters import plot

plt.style.use(digits.STYLE)

# %%
# Connections from each pixel are counted at every step at which some of them move.

seen = {}


def look(step, pruning):
    """Keep the mask of the first layer."""
    if step % 20 == 0:
        seen[step] = pruning.masks["0.weight"]


net = digits.network(width=300)
pruning = digits.fit(net, steps=1201, update=updates.rigl(sparsity=0.9, every=20, stop=900), each=look)
steps, masks = list(seen), list(seen.values())
print(f"{ml.sparsity(pruning.masks):.1%} dead, {digits.accuracy(net):.1%} of the test images are right")

# %%
# On the left a line for each pixel, over time: purple gains connections, orange loses them. On the right the same as
# images, and how much of the first mask is left.

counts = torch.stack([mask.sum(0) for mask in masks], 1).double()
gain = counts - counts[:, :1]
order = gain[:, -1].argsort(descending=True)
figure = plt.figure(figsize=(11, 5.5))
left, right = figure.subfigures(1, 2, width_ratios=(5, 4))
axes = left.subplots()
most = float(gain.abs().max())
axes.imshow(gain[order].numpy(), cmap="PuOr", vmin=-most, vmax=most, aspect="auto", extent=(0, steps[-1], 64, 0))
axes.set(title="connections of each pixel, against the start", xlabel="step", ylabel="pixels, sorted", yticks=[])
above, below = right.subplots(2, 1, height_ratios=(4, 3))
above.axis("off")
pictures = {"start": counts[:, 0], "end": counts[:, -1], "mean image": digits.TRAIN_X.mean(0)}
for i, (title, picture) in enumerate(pictures.items()):
    small = above.inset_axes((i * 0.35, 0, 0.3, 1))
    small.imshow(picture.view(8, 8).numpy(), cmap="Blues", vmin=0, vmax=float(counts.max()) if i < 2 else None)
    small.set(title=title, xticks=[], yticks=[])
plot.overlap(masks, steps=steps, ax=below)
plt.show()
