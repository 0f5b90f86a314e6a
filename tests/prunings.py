"""Every way to prune a module's parameter, and all that can be seen of a module."""

from __future__ import annotations

import pytest
import torch

import masklib.adapters.prune as prune

METHODS = {
    "identity": lambda m, n: prune.identity(m, n),
    "random_unstructured": lambda m, n: prune.random_unstructured(m, n, 2),
    "l1_unstructured": lambda m, n: prune.l1_unstructured(m, n, 0.3),
    "random_structured": lambda m, n: prune.random_structured(m, n, 1, dim=0),
    "ln_structured": lambda m, n: prune.ln_structured(m, n, 1, n=2, dim=0),
    "custom_from_mask": lambda m, n: prune.custom_from_mask(m, n, checkered(getattr(m, n))),
    "global": lambda m, n: prune.global_unstructured([(m, n)], prune.L1Unstructured, amount=2),
}
every_method = pytest.mark.parametrize("apply", METHODS.values(), ids=METHODS)


def checkered(tensor):
    return (torch.arange(tensor.numel()).view(tensor.shape) % 3) > 0


def hook_of(module):
    return next(iter(module._forward_pre_hooks.values()))


def everything(module):
    return (
        {n: (id(p), p.tolist()) for n, p in module._parameters.items() if p is not None},
        list(module._parameters),
        {n: (id(b), b.tolist()) for n, b in module._buffers.items()},
        {
            k: (id(h), len(h) if isinstance(h, prune.PruningContainer) else 0)
            for k, h in module._forward_pre_hooks.items()
        },
        [
            (n, h._record.died.tolist(), len(h._record.steps))
            for n, h in vars(module).get("_masklib_pruned", {}).items()
        ],
        sorted(vars(module)),
        torch.get_rng_state().tolist(),
    )
