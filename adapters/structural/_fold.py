"""Norms by the root mean square over fewer numbers: what the others did is folded into weight and epsilon.

With n numbers of which all but m are zero, mean over n = m/n * mean over m, so that

    w * x / sqrt(mean_n(x^2) + eps) = w * sqrt(n/m) * x / sqrt(mean_m(x^2) + eps * n/m)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ._capture import epsilon
from ._sizes import left
from ._structure import Structure


def folded(structure: Structure, gone: Any) -> list[tuple[str, float]]:
    """The norms that lose numbers, and n/m of each."""
    ratios = [(p, len(x), left(structure, x, gone)) for p, x in structure.walk.folds.items()]
    return [(path, n / m) for path, n, m in ratios if n != m]


def epsilons(model: nn.Module, norms: list[tuple[str, float]]) -> dict[Any, set[Any]]:
    """What the epsilons of norms become, by what they were."""
    found: dict[Any, set[Any]] = {}
    for path, ratio in norms:
        old = epsilon_of(model.get_submodule(path))
        found.setdefault(old, set()).add(old * ratio)
    return found


def readings(small: nn.Module, norms: list[tuple[str, float]]) -> Iterator[None]:
    """Fold, once for weights that are factors, once more for those that are factors less one, as in Gemma."""
    if not norms:
        yield
        return
    with torch.no_grad():
        modules = [(small.get_submodule(path), ratio) for path, ratio in norms]
        held: list[Any] = [(weight_of(module).clone(), epsilon_of(module)) for module, _ in modules]
        for offset in (0.0, 1.0):
            for (module, ratio), (weight, eps) in zip(modules, held):
                weight_of(module).copy_((weight + offset) * ratio**0.5 - offset)
                setattr(module, str(epsilon(module)), eps * ratio)
            yield


def weight_of(module: Any) -> Tensor:
    """The weight of a norm."""
    return module.weight


def epsilon_of(module: nn.Module) -> float:
    """The epsilon of a norm; for None, torch takes that of the dtype."""
    held = getattr(module, str(epsilon(module)))
    return torch.finfo(weight_of(module).dtype).eps if held is None else held
