"""Tiny models, data and updates for the tests of training, the same for every path."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

import masklib as ml
from masklib import schedules, updates

STEPS = 12
CUBIC = schedules.cubic(0.75, start=2, stop=9, every=3)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))


def batch(step: int) -> torch.Tensor:
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(step))


def loss_of(output: torch.Tensor) -> torch.Tensor:
    return (output - 1).square().mean()


def movement(params, state):
    return ml.scores.movement(state)


UPDATES = {
    "static": updates.static(ml.l1_unstructured, amount=0.5),
    "gradual": updates.gradual(ml.l1_unstructured, CUBIC),
    "gradual erk": updates.gradual(ml.l1_unstructured, CUBIC, budget=ml.budgets.erk),
    "rows": updates.gradual(partial(ml.compute_mask, groups=ml.channels(0, p=2)), schedules.linear(0.5, stop=8)),
    "taylor": updates.gradual(ml.compute_mask, CUBIC, score=ml.scores.taylor),
    "movement": updates.gradual(ml.compute_mask, CUBIC, score=movement, observe=ml.scores.add_movement),
    "rigl": updates.rigl(sparsity=0.5, every=3, stop=9),
    "set": updates.set_(sparsity=0.5, every=3),
    "lottery": updates.lottery(ml.l1_unstructured, schedules.exponential(0.4, every=4, stop=8)),
    "late lottery": updates.lottery(ml.l1_unstructured, schedules.exponential(0.4, every=4, stop=8), rewind=2),
    "ac/dc": updates.ac_dc(sparsity=0.5, start=2, sparse=3, dense=2, stop=10),
    "straight through": updates.straight_through(ml.n_of_m, keep=2, of=4),
    "sr-ste": updates.sr_ste(keep=1, of=4, decay=0.1),
}

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
}
EVERY = {
    "SGD plain": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD nesterov foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1, fused=True),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, lr=0.02, amsgrad=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.02),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.02),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.02),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.02, momentum=0.9, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.02),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.02),
    **OPTIMIZERS,
}


def train(model, optimizer, steps, *, before=lambda: None, after=lambda step: None):
    """Some steps of a plain loop."""
    for step in steps:
        optimizer.zero_grad()
        loss_of(model(batch(step))).backward()
        before()
        optimizer.step()
        after(step)


def state_of(optimizer, param):
    return [v for v in optimizer.state[param].values() if torch.is_tensor(v) and v.shape == param.shape]


def assert_zero(pruning, optimizer, with_state=True):
    params = dict(pruning.model.named_parameters())
    for name, mask in pruning.masks.items():
        for tensor in (params[name], *(state_of(optimizer, params[name]) if with_state else ())):
            assert not tensor[~mask].any()
