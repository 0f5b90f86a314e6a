"""Layers of which a share lives, and timers that know which of their forms is the fastest."""

from __future__ import annotations

import re

import torch
from torch import nn

from masklib.adapters.accelerate import accelerate


def timer(**seconds):
    """A timer that knows how long each form takes: in words, as names of forms have blanks; else one second."""

    def time(calls):
        for call in calls.values():
            call()
        return {name: seconds.get(re.sub(r"\W+", "_", name), 1.0) for name in calls}

    return time


FAST = timer(csr_x_T=0.5, accelerated=0.5)
ROWS = timer(x_csr_T=0.25, csr_x_T=0.5, accelerated=0.5)


def sparse(layer, share=0.2, seed=0, block=1):
    """A layer of which a share lives, in blocks."""
    drawn = torch.Generator().manual_seed(seed)
    matrix = layer.weight.data.flatten(1)
    rows, columns = (-(-side // block) for side in matrix.shape)
    live = (torch.rand(rows, columns, generator=drawn) < share).repeat_interleave(block, 0).repeat_interleave(block, 1)
    matrix *= live[: matrix.shape[0], : matrix.shape[1]]
    return layer


def net():
    torch.manual_seed(0)
    layers = [sparse(nn.Linear(32, 48)), nn.ReLU(), sparse(nn.Linear(48, 32)), nn.ReLU(), nn.Linear(32, 4)]
    return nn.Sequential(*layers), (torch.randn(5, 32),)


def state_of(model, inputs):
    return accelerate(model, inputs, timer=FAST)[0].state_dict()
