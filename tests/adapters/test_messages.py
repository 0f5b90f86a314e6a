"""Bad calls of the adapters in the core's wording: the argument, its value, the cause and a call that works."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from torch import nn

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters import checkpoint, parametrize, skipped, weights
from masklib.adapters.optimizer import keep_zero

HALF = partial(ml.l1_unstructured, amount=0.5)
CALLS = {
    "dim, structured": (
        IndexError,
        r"^`dim` must be a dimension of the tensor, which has shape \(3, 4\), got 5. For example dim=-1.$",
        lambda m: prune.ln_structured(m, "weight", 1, n=2, dim=5),
    ),
    "dim, random": (
        IndexError,
        r"^`dim` must be a dimension of the tensor, which has shape \(3, 4\), got -3. For example",
        lambda m: prune.random_structured(m, "weight", 1, dim=-3),
    ),
    "dim, second call": (
        IndexError,
        r"^`dim` must be a dimension",
        lambda m: [prune.ln_structured(m, "weight", 1, n=2, dim=d) for d in (0, 2)],
    ),
    "amount, too many": (
        ValueError,
        r"^`amount` must be between 0 and 12 \(what is alive\), got 13. For a share of it, pass amount=0.2.$",
        lambda m: prune.l1_unstructured(m, "weight", 13),
    ),
    "amount, share": (
        ValueError,
        r"^`amount` must be an int of at least 0 or a float in \[0, 1\], got 1.5. For example 0.2.$",
        lambda m: prune.random_unstructured(m, "weight", 1.5),
    ),
    "amount, by key": (
        ValueError,
        r"^`amount` must be between 0 and 12 \(what is alive\), got 13. For a share of it, pass amount=0.2.$",
        lambda m: prune.random_unstructured(m, "weight", 13, key=0),
    ),
    "key, type": (
        TypeError,
        r"^`key` must be an int, got 0.5. For example key=0.$",
        lambda m: prune.random_structured(m, "weight", 1, dim=0, key=0.5),
    ),
    "key and generator": (
        ValueError,
        r"^`key` and `generator` must not be given both. Pass one of them, for example key=0.$",
        lambda m: prune.random_unstructured(m, "weight", 1, key=0, generator=torch.Generator()),
    ),
    "amount, type": (
        TypeError,
        r"^`amount` must be an int or a float in \[0, 1\], got True \(bool\). For example amount=0.2.$",
        lambda m: prune.l1_unstructured(m, "weight", True),
    ),
    "not pruned": (
        ValueError,
        r"^parameter 'weight' of Linear has to be pruned before pruning can be removed. Pruned are: \[\].$",
        lambda m: prune.remove(m, "weight"),
    ),
    "vectors have no channels": (
        ValueError,
        r"^structured pruning needs a multidimensional tensor, got shape \(3,\). Prune it by entries",
        lambda m: prune.ln_structured(m, "bias", 1, n=2, dim=0),
    ),
    "scores with NaN name the parameter": (
        ValueError,
        r"NaN in scores of \"parameter 'weight' of Linear\"",
        lambda m: prune.l1_unstructured(m, "weight", 1, torch.full((3, 4), float("nan"))),
    ),
    "global, structured": (
        TypeError,
        r"^`pruning_method` must have PRUNING_TYPE \"unstructured\", got .*LnStructured.*'structured'. For example",
        lambda m: prune.global_unstructured(m, prune.LnStructured, amount=1, n=2),
    ),
    "parametrize, no method": (
        TypeError,
        r"^`method` must be callable, got 0.5. For example partial\(masklib.l1_unstructured, amount=0.5\).$",
        lambda m: parametrize.prune(m, 0.5),
    ),
    "parametrize, a mask without a name": (
        TypeError,
        r"^what `method` returns must be a mapping from names to masks, got Tensor. For example",
        lambda m: parametrize.prune(m, lambda scores, masks: torch.ones(3, 4)),
    ),
    "parametrize, masks in a list": (
        TypeError,
        r"^what `method` returns must be a mapping from names to masks, got list. For example",
        lambda m: parametrize.prune(m, lambda scores, masks: [1]),
    ),
    "parametrize, no names": (
        ValueError,
        r"^`names` is empty: there is nothing to prune. The parameters are: \['weight', 'bias'\].$",
        lambda m: parametrize.prune(m, HALF, iter(())),
    ),
    "masks that are none": (
        TypeError,
        r"^`masks` must be a mapping of tensors by name, got list. For example",
        lambda m: keep_zero(torch.optim.SGD(m.parameters()), m, ["weight"]),
    ),
    "parametrize, the name of one mask": (
        ValueError,
        r"^`name` must be one of the parameters, got \['w'\]. They are: \['weight', 'bias'\].$",
        lambda m: parametrize.set_mask(m, "w", torch.ones(3, 4)),
    ),
    **{
        f"no module, {i}": (TypeError, r"^`(module|root)` must be an nn.Module, got list. For example", call)
        for i, call in enumerate(
            [
                lambda m: prune.l1_unstructured([m], "weight", 1),
                lambda m: prune.l1_unstructured(m, "weight", 1, root=[m]),
                lambda m: prune.remove([m], "weight"),
                lambda m: prune.undo([m], "weight"),
                lambda m: prune.set_mask([m], "weight", torch.ones(3, 4)),
                lambda m: prune.masks([m]),
                lambda m: prune.is_pruned([m]),
                lambda m: prune.bake([m]),
                lambda m: prune.global_unstructured(m, prune.L1Unstructured, amount=1, root=[m]),
                lambda m: parametrize.prune([m], HALF),
                lambda m: parametrize.set_mask([m], "weight", torch.ones(3, 4)),
                lambda m: parametrize.masks([m]),
                lambda m: parametrize.is_pruned([m]),
                lambda m: parametrize.remove([m]),
                lambda m: parametrize.undo([m]),
                lambda m: parametrize.bake([m]),
                lambda m: checkpoint.load_pruned([m], {}),
                lambda m: keep_zero(torch.optim.SGD(m.parameters()), [m]),
                lambda m: weights([m]),
                lambda m: skipped([m]),
            ]
        )
    },
    "no state dict": (
        TypeError,
        r"^`state_dict` must be a mapping, got Linear. For example",
        lambda m: checkpoint.load_pruned(m, m),
    ),
    "no state dict to make dense": (
        TypeError,
        r"^`state_dict` must be a mapping, got Linear. For example",
        lambda m: checkpoint.to_dense(m),
    ),
    "no state dict to make pruned": (
        TypeError,
        r"^`state_dict` must be a mapping, got Linear. For example",
        lambda m: checkpoint.to_pruned(m, {}),
    ),
    "no masks": (
        TypeError,
        r"^`masks` must be a mapping of tensors by name, got list. For example",
        lambda m: checkpoint.to_pruned(m.state_dict(), []),
    ),
    "no optimizer": (
        TypeError,
        r"^`optimizer` must be a torch.optim.Optimizer, got Linear. For example torch.optim",
        lambda m: keep_zero(m, m),
    ),
    "parametrize, part on meta": (
        ValueError,
        r"all on the meta device or none, got \['1.weight'\] there",
        lambda m: parametrize.prune(nn.Sequential(m, nn.Linear(2, 2, device="meta")), HALF),
    ),
    "parametrize, lazy": (
        ValueError,
        r"^'weight' of LazyLinear is not initialized. Run a forward pass first.$",
        lambda m: parametrize.prune(nn.LazyLinear(2), HALF),
    ),
}


@pytest.mark.parametrize(("error", "message", "call"), CALLS.values(), ids=CALLS)
def test_a_bad_call_says_what_to_do(error, message, call):
    module = nn.Linear(4, 3)
    with pytest.raises(error) as raised:
        call(module)
    assert re.search(message, str(raised.value)), str(raised.value)


def test_a_module_on_the_meta_device_gets_masks_there():
    layer = parametrize.prune(nn.Linear(4, 3, device="meta"), HALF)
    assert parametrize.masks(layer)["weight"].is_meta
