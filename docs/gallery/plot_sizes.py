"""
Time and bytes
==============

What it takes to prune a layer, by how large it is; and what a pruned layer takes, by how sparse it is. A mask alone
saves nothing: bytes go where zeros are packed, and time where whole channels are cut.
"""

import time

import digits
import matplotlib.pyplot as plt
import torch
import torch.nn.utils.prune as torch_prune

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters.report import report

plt.style.use(digits.STYLE)

# %%
# The same call of both libraries on layers of 4 thousand to 4 million weights, the best of three.


def seconds(library, side):
    """How long half of a layer of side x side takes."""
    times = []
    for _ in range(3):
        layer = torch.nn.Linear(side, side, bias=False)
        start = time.perf_counter()
        library.l1_unstructured(layer, "weight", amount=0.5)
        times.append(time.perf_counter() - start)
    return min(times)


sides = [64, 128, 256, 512, 1024, 2048]
taken = {name: [seconds(lib, side) for side in sides] for name, lib in (("masklib", prune), ("torch", torch_prune))}

# %%
# A report counts the bytes of a layer of 1024 x 1024: dense, packed (what lives, and a bit a weight), and CSR.

weight = {"w": torch.randn(1024, 1024)}
shares = [0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
reports = [report(ml.l1_unstructured(weight, sparsity=share)) for share in shares]
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
for (name, times), style in zip(taken.items(), ("o-", "o--")):
    left.loglog([side**2 for side in sides], [1e3 * t for t in times], style, label=name)
left.set(title="to prune half of a layer", xlabel="weights", ylabel="milliseconds")
left.grid()
left.legend()
for what, style in (("dense", "-"), ("packed", "o-"), ("csr", "o-")):
    size = [getattr(found, f"{what}_bytes") / 2**20 for found in reports]
    right.plot([100 * share for share in shares], size, style, label=what.replace("csr", "CSR"))
right.set(title="bytes of a million weights", xlabel="sparsity (%)", ylabel="MiB", ylim=(0, None))
right.grid()
right.legend()
plt.show()
