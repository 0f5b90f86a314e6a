"""A strategy of modules with pruned parameters."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import nn

from masklib.testing._subject import Subject, cases


@st.composite
def modules(draw: DrawFn, prune_module: Any) -> tuple[nn.Module, str]:
    """Draw modules that have a pruned parameter: linear, convolution, embedding, LSTM, in several dtypes.

    Args:
        prune_module: what prunes them: masklib.adapters.prune, torch.nn.utils.prune, or one of your own.

    Returns:
        A strategy of pairs: a module after one to three calls of the adapter, and the name of the parameter.

    >>> module, name = find(modules(prune), lambda drawn: isinstance(drawn[0], nn.Conv1d))
    >>> name, prune.is_pruned(module)
    ('weight', True)
    """
    subject = Subject(prune_module, draw(cases()))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        subject.begin()
    return subject.module, subject.name
