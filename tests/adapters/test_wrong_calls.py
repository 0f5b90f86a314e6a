"""Every public function of the adapters is given the wrong thing in each argument, and the module stays as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from wrong import M, W, X, called, told

import masklib as ml
import masklib.adapters.accelerate as accelerate
import masklib.adapters.checkpoint as checkpoint
import masklib.adapters.depth as depth
import masklib.adapters.oneshot as oneshot
import masklib.adapters.optimizer as optimizer
import masklib.adapters.parametrize as parametrize
import masklib.adapters.prune as prune
from masklib.adapters import skipped, weights

HALF = partial(ml.l1_unstructured, amount=0.5)


def layer() -> nn.Module:
    return nn.Linear(3, 2)


@cache
def stored() -> str:
    """A checkpoint of a layer."""
    path = f"{tempfile.mkdtemp()}/layer.safetensors"
    save_file(layer().state_dict(), path)
    return path


def pruned() -> nn.Module:
    return prune.l1_unstructured(layer(), "weight", 2)


def parametrized() -> nn.Module:
    module = layer()
    parametrize.prune(module, HALF)
    return module


class Uniform(nn.Module):
    """A language model that knows nothing."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*input_ids.shape, 10)


def keep_zero() -> dict[str, Any]:
    module = pruned()
    return {"optimizer": torch.optim.SGD(module.parameters(), lr=0.1), "module": module, "masks": None}


# A right call of everything: the function, and what makes its arguments.
CALLS: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "identity": (prune.identity, lambda: {"module": layer(), "name": "weight", "root": None}),
    "l1_unstructured": (
        prune.l1_unstructured,
        lambda: {"module": layer(), "name": "weight", "amount": 2, "importance_scores": W},
    ),
    "random_unstructured": (
        prune.random_unstructured,
        lambda: {"module": layer(), "name": "weight", "amount": 0.5, "generator": None},
    ),
    "ln_structured": (
        prune.ln_structured,
        lambda: {"module": layer(), "name": "weight", "amount": 1, "n": 2, "dim": 0, "importance_scores": W},
    ),
    "random_structured": (
        prune.random_structured,
        lambda: {"module": layer(), "name": "weight", "amount": 1, "dim": 0, "generator": None},
    ),
    "random_unstructured, key": (
        prune.random_unstructured,
        lambda: {"module": layer(), "name": "weight", "amount": 0.5, "key": 0},
    ),
    "random_structured, key": (
        prune.random_structured,
        lambda: {"module": layer(), "name": "weight", "amount": 1, "dim": 0, "key": 0},
    ),
    "custom_from_mask": (prune.custom_from_mask, lambda: {"module": layer(), "name": "weight", "mask": M}),
    "apply": (prune.apply, lambda: {"module": layer(), "name": "weight", "method": HALF}),
    "set_mask": (prune.set_mask, lambda: {"module": layer(), "name": "weight", "mask": M}),
    "global_unstructured": (
        prune.global_unstructured,
        lambda: {"parameters": layer(), "pruning_method": prune.L1Unstructured, "amount": 0.5, "names": ["weight"]},
    ),
    "remove": (prune.remove, lambda: {"module": pruned(), "name": "weight", "root": None}),
    "undo": (prune.undo, lambda: {"module": pruned(), "name": "weight", "root": None}),
    "bake": (prune.bake, lambda: {"module": pruned()}),
    "is_pruned": (prune.is_pruned, lambda: {"module": pruned()}),
    "masks": (prune.masks, lambda: {"module": pruned()}),
    "parametrize.prune": (
        parametrize.prune,
        lambda: {"module": layer(), "method": HALF, "names": ["weight"], "importance_scores": None},
    ),
    "parametrize.masks": (parametrize.masks, lambda: {"module": parametrized()}),
    "parametrize.remove": (parametrize.remove, lambda: {"module": parametrized()}),
    "oneshot.prune": (
        oneshot.prune,
        lambda: {
            "model": nn.Sequential(layer()),
            "batches": [X],
            "rule": oneshot.wanda(),
            "sparsity": 0.5,
            "default_masks": {"0.weight": M},
            "names": ["0.weight"],
            "blocks": ["0"],
            "strict": True,
            "work": None,
            "device": "cpu",
            "progress": lambda finished, blocks: None,
        },
    ),
    "oneshot.measure": (
        oneshot.measure,
        lambda: {
            "model": nn.Sequential(layer()),
            "batches": [X],
            "score": ml.scores.curvature,
            "loss": lambda outputs, batch: outputs.sum(),
            "names": ["0.weight"],
            "blocks": ["0"],
        },
    ),
    "oneshot.to_checkpoint": (
        oneshot.to_checkpoint,
        lambda: {"masks": {"weight": M}, "model": layer(), "source": stored()},
    ),
    "oneshot.to_model": (oneshot.to_model, lambda: {"masks": {"weight": M}, "model": layer(), "source": stored()}),
    "oneshot.next_token_loss": (
        oneshot.next_token_loss,
        lambda: {"outputs": torch.zeros(1, 3, 4), "batch": torch.ones(1, 3, dtype=torch.int64)},
    ),
    "oneshot.wanda": (oneshot.wanda, lambda: {"groups": ml.rows()}),
    "oneshot.ria": (oneshot.ria, lambda: {"power": 0.5, "groups": None}),
    "accelerate": (
        accelerate.accelerate,
        lambda: {"model": layer(), "example_inputs": (X,), "margin": 1.1, "timer": accelerate.race},
    ),
    "restore": (accelerate.restore, lambda: {"model": layer(), "state": accelerate.SparseLinear(layer()).state_dict()}),
    "depth.measure": (
        depth.measure,
        lambda: {
            "model": nn.Sequential(nn.Linear(3, 3), nn.ReLU()),
            "batches": [X],
            "length": 1,
            "last": False,
            "add": ml.scores.add_angles,
            "blocks": ["0"],
        },
    ),
    "depth.drop": (
        depth.drop,
        lambda: {
            "model": nn.Sequential(nn.Linear(3, 3), nn.ReLU()),
            "masks": {"0": torch.tensor(False)},
            "example_inputs": (X,),
        },
    ),
    "race": (accelerate.race, lambda: {"calls": {"one": lambda: 1}}),
    "SparseLinear": (accelerate.SparseLinear, lambda: {"layer": nn.Linear(4, 4), "block": 2}),
    "Masked": (partial(parametrize.Masked, order=()), lambda: {"mask": M}),
    "oneshot.perplexity": (oneshot.perplexity, lambda: {"model": Uniform(), "windows": [torch.arange(8)]}),
    "prune of a method": (
        prune.L1Unstructured(0.5).prune,
        lambda: {"t": W, "default_mask": M.float(), "importance_scores": W},
    ),
    "weights": (weights, lambda: {"module": layer()}),
    "skipped": (skipped, lambda: {"module": layer()}),
    "keep_zero": (optimizer.keep_zero, keep_zero),
    "load_pruned": (checkpoint.load_pruned, lambda: {"module": layer(), "state_dict": pruned().state_dict()}),
    "to_dense": (checkpoint.to_dense, lambda: {"state_dict": pruned().state_dict()}),
    "to_pruned": (checkpoint.to_pruned, lambda: {"state_dict": layer().state_dict(), "masks": {"weight": M}}),
}
KINDS = (ValueError, TypeError, IndexError, AttributeError, OSError)  # AttributeError: prune, for an unknown name


@pytest.mark.parametrize("name", CALLS)
def test_the_right_call_is_right(name):
    function, arguments = CALLS[name]
    called(function, arguments())


@pytest.mark.parametrize("name", CALLS)
def test_the_wrong_thing_is_told(name):
    lines = told(*CALLS[name], kinds=KINDS).splitlines()
    bad = [line for line in lines if "Error(s) in loading state_dict" not in line]  # torch's own, as documented
    assert not bad, "\n" + "\n".join(bad)
