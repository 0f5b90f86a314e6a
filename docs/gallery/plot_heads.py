"""
Heads that go
=============

A small transformer reads a digit as eight rows of pixels. Whole attention heads are pruned, the weakest first, all
layers in one pool: an item is a head, with its queries, keys, values and its part of the output. Half go for free.
"""

import digits
import matplotlib.pyplot as plt
import torch
from torch import nn

import masklib as ml

plt.style.use(digits.STYLE)
LAYERS, HEADS = 4, 8


class Rows(nn.Linear):
    """Rows of an image as tokens, each with its place."""

    def forward(self, x):
        """From (n, 64) to (n, 8, 64)."""
        return super().forward(torch.cat([x.view(-1, 8, 8), torch.eye(8).expand(len(x), 8, 8)], 2))


torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(64, HEADS, 128, dropout=0.0, batch_first=True)
net = nn.Sequential(Rows(16, 64), nn.TransformerEncoder(layer, LAYERS), nn.Flatten(), nn.Linear(512, 10))
digits.fit(net, steps=300)

# %%
# The projections of a layer are coupled: they have as many items each, and the i-th of all of them is one head.

parts = {"in_proj_weight": ml.heads(HEADS, parts=(1, 1, 1)), "out_proj.weight": ml.heads(HEADS, dim=1)}
names = [{f"1.layers.{i}.self_attn.{part}": by for part, by in parts.items()} for i in range(LAYERS)]
weights = {name: net.get_parameter(name).detach() for layer in names for name in layer}
dense, curve = {name: weight.clone() for name, weight in weights.items()}, []
for gone in range(0, LAYERS * HEADS + 1, 4):
    masks = ml.compute_mask(ml.scores.magnitude(weights), amount=gone, groups=ml.coupled(*names, p=2))
    living = torch.stack([ml.alive(masks[next(iter(layer))], groups=parts["in_proj_weight"]) for layer in names])
    for name, weight in weights.items():
        weight.copy_(torch.where(masks[name], dense[name], 0))
    curve.append((gone, digits.accuracy(net), living))

# %%
# Accuracy without any training afterwards, and which heads live.

left, right = plt.figure(figsize=(11, 4.5)).subfigures(1, 2, width_ratios=(4, 5))
axes = left.subplots()
axes.plot([gone for gone, _, _ in curve], [100 * right for _, right, _ in curve], "o-")
axes.set(title="accuracy, not fine-tuned", xlabel="heads that are gone, of 32", ylabel="%", ylim=(50, 101))
right.suptitle("which heads live: a row for each layer, a dot for each head", x=0.3, fontsize=11, fontweight="bold")
for small, (gone, _, living) in zip(right.subplots(3, 3).flat, curve):
    spots = [(head, layer) for layer in range(LAYERS) for head in range(HEADS)]
    small.scatter(*zip(*spots), c=["C0" if living[layer, head] else "#e5e7eb" for head, layer in spots], s=26)
    small.spines[:].set_visible(False)
    small.set(xlim=(-1, HEADS), ylim=(LAYERS - 0.4, -0.6), xticks=[], yticks=[], xlabel=f"{gone} gone")
plt.show()
