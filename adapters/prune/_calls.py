"""Pruning one parameter of a module: a function for each method, and one for those of the core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ._methods import (
    CoreMethod,
    CustomFromMask,
    Identity,
    L1Unstructured,
    LnStructured,
    RandomStructured,
    RandomUnstructured,
)


def identity(module: nn.Module, name: str, *, root: nn.Module | None = None) -> nn.Module:
    """Begin the pruned state without pruning: `name_orig` parameter, `name_mask` buffer of ones, forward pre-hook.

    Args:
        module: the module that holds the parameter.
        name: the parameter's name in it.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module.

    Raises:
        AttributeError, TypeError, ValueError: if there is no such parameter; nothing is changed then.

    >>> identity(nn.Linear(2, 3), "bias").bias_mask
    tensor([1., 1., 1.])
    """
    Identity.apply(module, name, root=root)
    return module


def random_unstructured(
    module: nn.Module,
    name: str,
    amount: float,
    *,
    generator: torch.Generator | None = None,
    key: Any = None,
    root: nn.Module | None = None,
) -> nn.Module:
    """Prune entries at random.

    Args:
        module: the module that holds the parameter.
        name: the parameter's name in it.
        amount: an int, how many of the live entries; or a float in [0, 1], which share of them.
        generator: what to draw from instead of torch's global generator.
        key: a 64-bit int, of which the noise is made instead, as in the core: the same on all ranks, of any sharding.
            On several ranks one of the two must be given, but for a sharded parameter, whose ranks agree on a key.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module.

    Raises:
        TypeError, ValueError: if the amount or the name does not fit, or nothing says how several ranks draw alike;
            nothing is changed then.

    >>> int(random_unstructured(nn.Linear(2, 3), "weight", amount=1).weight_mask.sum())
    5
    """
    RandomUnstructured.apply(module, name, amount, generator=generator, key=key, root=root)
    return module


def l1_unstructured(
    module: nn.Module,
    name: str,
    amount: float,
    importance_scores: Tensor | None = None,
    *,
    root: nn.Module | None = None,
) -> nn.Module:
    """Prune the entries of least magnitude.

    Args:
        module: the module that holds the parameter.
        name: the parameter's name in it.
        amount: an int, how many of the live entries; or a float in [0, 1], which share of them.
        importance_scores: scores of the parameter's shape, ranked by magnitude; the parameter itself if None.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module.

    Raises:
        TypeError, ValueError: if the amount, the scores or the name does not fit; nothing is changed then.

    >>> m = l1_unstructured(nn.Linear(2, 3), "weight", amount=0.5)
    >>> sorted(m.state_dict())
    ['bias', 'weight_mask', 'weight_orig']
    """
    L1Unstructured.apply(module, name, amount=amount, importance_scores=importance_scores, root=root)
    return module


def random_structured(
    module: nn.Module,
    name: str,
    amount: float,
    dim: int,
    *,
    generator: torch.Generator | None = None,
    key: Any = None,
    root: nn.Module | None = None,
) -> nn.Module:
    """Prune channels at random.

    Args:
        module: the module that holds the parameter.
        name: the parameter's name in it.
        amount: an int, how many of the live channels; or a float in [0, 1], which share of them.
        dim: the dim whose indices are the channels.
        generator: what to draw from instead of torch's global generator.
        key: a 64-bit int, of which the noise is made instead, as in the core: the same on all ranks, of any sharding.
            On several ranks one of the two must be given, but for a sharded parameter, whose ranks agree on a key.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module.

    Raises:
        TypeError, ValueError, IndexError: if an argument does not fit; nothing is changed then.

    >>> m = random_structured(nn.Linear(5, 3), "weight", amount=2, dim=1)
    >>> int((m.weight == 0).all(dim=0).sum())
    2
    """
    RandomStructured.apply(module, name, amount, dim, generator=generator, key=key, root=root)
    return module


def ln_structured(
    module: nn.Module,
    name: str,
    amount: float,
    n: Any,
    dim: int,
    importance_scores: Tensor | None = None,
    *,
    root: nn.Module | None = None,
) -> nn.Module:
    """Prune the channels of least Ln norm.

    Args:
        module: the module that holds the parameter.
        name: the parameter's name in it.
        amount: an int, how many of the live channels; or a float in [0, 1], which share of them.
        n: the order of the norm: a number, inf, -inf, "fro" or "nuc".
        dim: the dim whose indices are the channels.
        importance_scores: scores of the parameter's shape; the parameter itself if None.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module.

    Raises:
        TypeError, ValueError, IndexError: if an argument does not fit; nothing is changed then.

    >>> m = ln_structured(nn.Conv2d(5, 3, 2), "weight", amount=1, n=2, dim=0)
    >>> int((m.weight_mask.sum((1, 2, 3)) == 0).sum())
    1
    """
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores, root=root)
    return module


def custom_from_mask(module: nn.Module, name: str, mask: Tensor, *, root: nn.Module | None = None) -> nn.Module:
    """Prune by a given mask.

    Args:
        module: the module that holds the parameter.
        name: the parameter's name in it.
        mask: 0/1 or bool mask of the parameter's shape, what may stay; it is copied.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module.

    Raises:
        TypeError, ValueError: if the mask does not fit; nothing is changed then.

    >>> custom_from_mask(nn.Linear(2, 3), "bias", torch.tensor([0, 1, 0])).bias_mask
    tensor([0., 1., 0.])
    """
    CustomFromMask.apply(module, name, mask, root=root)
    return module


def apply(
    module: nn.Module,
    name: str,
    method: Callable[[Tensor, Tensor], Tensor],
    importance_scores: Tensor | None = None,
    *,
    root: nn.Module | None = None,
) -> nn.Module:
    """Prune by any method of the core, whole tensors in, a mask out.

    Args:
        module: the module that holds the parameter.
        name: the parameter's name in it.
        method: `(scores, default_mask) -> mask`, such as `partial(masklib.n_of_m, keep=2, of=4)`. In the history of the
            hook it is the step itself; to pickle the module, make it of functions that can be pickled.
        importance_scores: scores of the parameter's shape; the parameter under its mask if None.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module.

    Raises:
        TypeError, ValueError: if the method, its mask, the scores or the name does not fit; nothing is changed then.

    >>> m = apply(nn.Linear(4, 2), "weight", partial(masklib.n_of_m, keep=2, of=4))
    >>> m.weight_mask.sum(1)
    tensor([2., 2.])
    """
    CoreMethod.apply(module, name, method, importance_scores=importance_scores, root=root)
    return module
