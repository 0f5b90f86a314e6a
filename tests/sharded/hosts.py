"""What ranks are asked about a checkpoint that is pruned in memory and from its file too."""

from __future__ import annotations

from functools import partial

from safetensors.torch import load_file
from torch.distributed.tensor import Shard

import masklib as ml
from sharded.layouts import shard

METHODS = {
    "l1": partial(ml.l1_unstructured, sparsity=0.5),
    "random": partial(ml.random_unstructured, key=3, sparsity=0.5),
    "layers": partial(ml.layerwise(ml.l1_unstructured), sparsity=0.3),
    "rows": partial(ml.compute_mask, sparsity=0.5, groups=ml.rows()),
    "2:4": lambda s, m=None: ml.n_of_m(ml.scores.magnitude(s), m, keep=2, of=4),
    "channels": partial(ml.ln_structured, n=2, dim=0, amount=0.3),
    "history": ml.chain(partial(ml.l1_unstructured, amount=0.2), partial(ml.l1_unstructured, amount=0.3)),
}


def masks(mesh, path, names, method, dim):
    """The masks of a file's tensors that are sharded along a dim, put together again."""
    tensors = load_file(path)
    found = METHODS[method]({n: shard(tensors[n], mesh, (Shard(dim),)) for n in names}, None)
    return {n: m.full_tensor() for n, m in found.items()}
