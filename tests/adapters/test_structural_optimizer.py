"""Training goes on after a cut as it would with masks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import zoo
from torch.func import functional_call

import masklib as ml
from masklib.adapters.structural import shrink, shrink_optimizer, structure

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": partial(torch.optim.Adam, lr=0.01, amsgrad=True),
    "adamw": partial(torch.optim.AdamW, lr=0.01, foreach=False),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
    "groups": lambda params: torch.optim.Adam([{"params": [p], "lr": 0.01 + 0.001 * p.dim()} for p in params]),
}


def step(optimizer, run, inputs, count):
    for number in range(count):
        optimizer.zero_grad()
        (run(inputs) * torch.linspace(-1, 1, 4 + number, dtype=torch.float64)[:4]).square().mean().backward()
        optimizer.step()


def cut(kind):
    """A network that was trained for some steps, its masks, and the optimizer."""
    model, inputs = zoo.build("mobilenet")
    found = structure(model, inputs)
    optimizer = kind(model.parameters())
    step(optimizer, lambda x: model.train()(*x), inputs, 3)
    scores = {n: p.detach() for n, p in model.named_parameters() if n in found.names}
    masks = ml.compute_mask(scores, sparsity=0.4, groups=found.groups(p=2, mean=True), least=1)
    return model, inputs, found, optimizer, masks


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on_as_with_masks(kind):
    model, inputs, found, optimizer, masks = cut(kind)
    small = shrink(model, masks, found)
    theirs = shrink_optimizer(optimizer, model, small, masks=masks, structure=found)
    step(theirs, lambda x: small.train()(*x), inputs, 4)
    params = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            for value in (params[name], *optimizer.state[params[name]].values()):
                value.mul_(mask if value.shape == mask.shape else 1)
    step(optimizer, lambda x: functional_call(model, ml.apply(params, masks), x), inputs, 4)
    again = shrink(model, masks, found)
    for (name, ours), other in zip(again.named_parameters(), small.parameters()):
        assert torch.allclose(ours, other, rtol=1e-9, atol=1e-11), name
    assert [id(p) for g in theirs.param_groups for p in g["params"]] == [id(p) for p in small.parameters()]


def test_what_cannot_be_carried_over_is_refused_and_nothing_changes():
    model, _inputs, found, optimizer, masks = cut(OPTIMIZERS["adam"])
    small = shrink(model, masks, found)
    before = {n: p.clone() for n, p in model.named_parameters()}
    carry = partial(shrink_optimizer, model=model, small=small, masks=masks, structure=found)
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer"):
        carry("adam")
    with pytest.raises(ValueError, match="that `model` lacks"):
        carry(torch.optim.SGD(small.parameters(), lr=0.1))
    optimizer.state[model[0].weight]["rows"] = torch.zeros(6)
    with pytest.raises(ValueError, match=r"the state 'rows' of '0\.weight' in Adam does not have its shape"):
        carry(optimizer)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
