"""torch.nn.utils.prune, name for name, without its defects.

    import masklib.adapters.prune as prune      # instead of: import torch.nn.utils.prune as prune

The pruned tensor is computed from `name_orig` and `name_mask` whenever it is read. Every call computes and checks
first and touches the module last, all or nothing. Selection is the core's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from . import _site
from ._amounts import _compute_norm as _compute_norm
from ._amounts import _compute_nparams_toprune as _compute_nparams_toprune
from ._amounts import _validate_pruning_amount as _validate_pruning_amount
from ._amounts import _validate_pruning_amount_init as _validate_pruning_amount_init
from ._amounts import _validate_pruning_dim as _validate_pruning_dim
from ._amounts import _validate_structured_pruning as _validate_structured_pruning
from ._base import BasePruningMethod as BasePruningMethod
from ._base import PruningContainer as PruningContainer
from ._commit import hooks, prune_sites
from ._global import global_masks, global_method, global_scores
from ._methods import METHODS
from ._methods import CustomFromMask as CustomFromMask
from ._methods import Identity as Identity
from ._methods import L1Unstructured as L1Unstructured
from ._methods import LnStructured as LnStructured
from ._methods import RandomStructured as RandomStructured
from ._methods import RandomUnstructured as RandomUnstructured
from ._sites import Site, dotted, global_sites, pruned_names, sites_of


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


def random_unstructured(module: nn.Module, name: str, amount: float, *, root: nn.Module | None = None) -> nn.Module:
    """Prune entries at random.

    Args:
        module: the module that holds the parameter.
        name: the parameter's name in it.
        amount: an int, how many of the live entries; or a float in [0, 1], which share of them.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module.

    Raises:
        TypeError, ValueError: if the amount or the name does not fit; nothing is changed then.

    >>> int(random_unstructured(nn.Linear(2, 3), "weight", amount=1).weight_mask.sum())
    5
    """
    RandomUnstructured.apply(module, name, amount, root=root)
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
    module: nn.Module, name: str, amount: float, dim: int, *, root: nn.Module | None = None
) -> nn.Module:
    """Prune channels at random.

    Args:
        module: the module that holds the parameter.
        name: the parameter's name in it.
        amount: an int, how many of the live channels; or a float in [0, 1], which share of them.
        dim: the dim whose indices are the channels.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module.

    Raises:
        TypeError, ValueError, IndexError: if an argument does not fit; nothing is changed then.

    >>> m = random_structured(nn.Linear(5, 3), "weight", amount=2, dim=1)
    >>> int((m.weight == 0).all(dim=0).sum())
    2
    """
    RandomStructured.apply(module, name, amount, dim, root=root)
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


def global_unstructured(
    parameters: nn.Module | Iterable[tuple[nn.Module, str]],
    pruning_method: type[BasePruningMethod],
    importance_scores: Mapping[tuple[nn.Module, str], Tensor] | None = None,
    *,
    names: Iterable[str] | Callable[[str, Tensor], bool] | None = None,
    root: nn.Module | None = None,
    **kwargs: Any,
) -> None:
    """Prune several parameters as one pool.

    Args:
        parameters: any iterable of (module, name) pairs; or a module, of which `names` says the parameters.
        pruning_method: a method class with PRUNING_TYPE "unstructured".
        importance_scores: scores by (module, name), for some or all of the pairs.
        names: with a module, dotted parameter names or a filter `(name, tensor) -> bool`; by default
            `masklib.adapters.weights`.
        root: a module in which to look for other names of the same (tied) parameters; `parameters` itself if that is
            a module.
        kwargs: what the method's constructor takes, such as `amount`, counted over the live entries of all.

    Raises:
        TypeError: if the method is not unstructured, or an argument is not what it should be.
        ValueError: if a name, a shape or a device does not fit; nothing is changed then.

    >>> net = nn.Sequential(nn.Linear(10, 4), nn.Linear(4, 1))
    >>> global_unstructured([(net[0], "weight"), (net[1], "weight")], L1Unstructured, amount=10)
    >>> int(sum((b == 0).sum() for b in net.buffers()))
    10
    """
    groups = global_sites(parameters, names, root)
    scores = global_scores(groups, importance_scores)
    with _site.unchanged_on_error([site.module for group in groups for site in group]):
        kept = global_masks(global_method(pruning_method, kwargs), groups, scores)
        for group, mask in zip(groups, kept):
            prune_sites(group, partial(CustomFromMask, mask), None)


def remove(module: nn.Module, name: str, *, root: nn.Module | None = None) -> nn.Module:
    """Make the pruning of a parameter permanent: zeros where the mask is 0, the plain parameter in its place.

    The parameter object, its storage and its place in the order are those from before.

    Args:
        module: the pruned module.
        name: the parameter's name in it.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module.

    Raises:
        ValueError: if the parameter is not pruned.

    >>> m = remove(l1_unstructured(nn.Linear(2, 3), "weight", amount=2), "weight")
    >>> list(dict(m.named_parameters())), int((m.weight == 0).sum())
    (['weight', 'bias'], 2)
    """
    sites = _pruned_sites(module, name, root, "removed")
    with _site.unchanged_on_error([site.module for site in sites], _site.parameter(module, name)):
        for site in sites:
            _site.hook_of(*site).remove(site.module)
            _drop_hook(site)
    return module


def undo(module: nn.Module, name: str, *, root: nn.Module | None = None) -> nn.Module:
    """Take the pruning of a parameter back: the dense values that `name_orig` holds, under the plain name.

    Args:
        module: the pruned module.
        name: the parameter's name in it.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module.

    Raises:
        ValueError: if the parameter is not pruned.

    >>> m = nn.Linear(2, 3)
    >>> before = m.weight.clone()
    >>> torch.equal(undo(l1_unstructured(m, "weight", amount=2), "weight").weight, before)
    True
    """
    sites = _pruned_sites(module, name, root, "undone")
    with _site.unchanged_on_error([site.module for site in sites]):
        for site in sites:
            _site.leave(*site)
            _drop_hook(site)
    return module


def bake(module: nn.Module) -> nn.Module:
    """Copy a module with all its pruning made permanent, for scripting, fusion and quantisation.

    Args:
        module: any module, pruned or not; it is left as it is.

    Returns:
        A deep copy without pruning hooks, masks and renamed parameters.

    >>> m = l1_unstructured(nn.Linear(2, 3), "weight", amount=2)
    >>> is_pruned(m), is_pruned(bake(m)), int((bake(m).weight == 0).sum())
    (True, False, 2)
    """
    clean = copy.deepcopy(module)
    for name in pruned_names(clean):
        remove(*dotted(clean, name))
    return clean


def is_pruned(module: nn.Module) -> bool:
    """Whether the module or any module in it has a pruning hook.

    Args:
        module: any module.

    Returns:
        True if any forward pre-hook is a pruning method.

    >>> is_pruned(nn.Linear(2, 3)), is_pruned(identity(nn.Linear(2, 3), "weight"))
    (False, True)
    """
    found = (hook for m in module.modules() for hook in m._forward_pre_hooks.values())
    return any(isinstance(hook, BasePruningMethod) for hook in found)


def _pruned_sites(module: nn.Module, name: str, root: nn.Module | None, action: str) -> list[Site]:
    if not _site.is_marked(module, name):
        raise ValueError(f"Parameter {name!r} of module {module} has to be pruned before pruning can be {action}")
    return [site for site in sites_of(module, name, root) if _site.is_marked(*site)]


def _drop_hook(site: Site) -> None:
    for key in hooks(site):
        del site.module._forward_pre_hooks[key]


for _class in (BasePruningMethod, PruningContainer, *METHODS):
    _class.__module__ = __name__  # where pickles and documentation look for them
