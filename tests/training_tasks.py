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


def train(model, optimizer, steps, *, before=lambda: None, after=lambda step: None):
    """Some steps of a plain loop."""
    for step in steps:
        optimizer.zero_grad()
        loss_of(model(batch(step))).backward()
        before()
        optimizer.step()
        after(step)
