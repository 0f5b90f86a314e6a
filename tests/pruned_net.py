"""A net of every kind of host, in which a weight has two sites, and what is looked at in it."""

from __future__ import annotations

import torch
from torch import nn


class Net(nn.Module):
    """Every kind of host, and a weight at two sites."""

    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(5, 4), nn.LSTM(4, 3)
        self.linear, self.head = nn.Linear(3, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words):
        return self.head(self.linear(self.lstm(self.embedding(words))[0]))


def loss(net):
    return net(torch.arange(5).view(5, 1)).log_softmax(-1).diagonal(dim1=0, dim2=2).sum()


NAMES = list(Net().named_parameters())


def dotted(net, name):
    prefix, _, last = name.partition(".")
    return getattr(net, prefix), last


def channels(mask, dim):
    """Which channels of a matrix live."""
    return mask.any(dim=1 - dim % 2)


def along(alive, dim, like):
    return alive.unsqueeze(1 - dim % 2).expand_as(like)


def everything(net):
    tables = [(m, t) for m in net.modules() for t in (m._parameters, m._buffers)]
    return (
        [(n, id(t), None if t is None else t.tolist()) for _, table in tables for n, t in table.items()],
        [(k, id(h), len(getattr(h, "_pruning_methods", ()))) for m in net.modules() for k, h in hooks_of(m)],
        [(type(m), sorted(vars(m))) for m in net.modules()],
    )


def hooks_of(module):
    return module._forward_pre_hooks.items()
