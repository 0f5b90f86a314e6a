"""Keep dead weights dead through an optimizer's steps: weight decay and momentum move them otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from masklib import _read

from ._module import state
from ._module.held import forget, watch
from ._module.parametrized import masks_in, originals
from ._module.sharded import reshard
from ._module.sites import dotted, known_names, plain_names, pruned_names
from ._module.stepping import after_steps, owned, same_shape, unwrapped, zero_dead
from ._module.values import a_module, checked_mask, zero_one

__all__ = ["Handle", "keep_zero"]


def __dir__() -> list[str]:
    """List the public names."""
    return __all__


def keep_zero(optimizer: Optimizer, module: nn.Module, masks: Mapping[str, Tensor] | None = None) -> Handle:
    """Hold masked entries, and every optimizer state of their shape, at exactly zero after each step.

    Any optimizer will do. A state tensor of a parameter's shape (momentum, averages, sums of squares) is treated like
    the parameter itself. The state of a scalar parameter cannot be told from a counter, and is left alone.

    It takes effect at once and after every step, for what is pruned then by `adapters.prune` or `adapters.parametrize`.
    After `remove` the zeros stay held; after `undo` they do not. The dense values behind a mask are zeroed too, so
    `undo` no longer brings them back. Several optimizers may share a module, each holding what is its own.

    Args:
        optimizer: it must hold the parameters.
        module: the module, pruned or not.
        masks: by dotted parameter name, bool or 0/1, True = kept; the masks of those pruned parameters that the
            optimizer holds, as they are at each step, if None.

    Returns:
        A handle whose `remove()` ends it.

    Raises:
        TypeError: if a mask is not a tensor.
        ValueError: if nothing is masked, a name or a mask does not fit, or a parameter is not the optimizer's.

    >>> layer = prune.l1_unstructured(nn.Linear(4, 2), "weight", 3)
    >>> optimizer = torch.optim.AdamW(layer.parameters())
    >>> handle = keep_zero(optimizer, layer)
    >>> int((layer.weight_orig == 0).sum())
    3
    """
    optimizer = unwrapped(optimizer)
    handle = Handle(a_module(module))
    given = None if masks is None else _given(module, masks)
    _refuse_strangers(optimizer, _masked(module) if given is None else given, all_of_them=masks is not None)

    def hold() -> None:
        known = owned(optimizer)
        for _name, param, mask in _held(module, handle.number) if given is None else given:
            if id(param) in known:
                zero_dead(*((tensor, mask) for tensor in (param, *same_shape(optimizer, param))))

    hold()
    handle.hook = after_steps(optimizer, hold)
    return handle


class Handle:
    """What `keep_zero` returns; it may also be used in a `with` statement."""

    _numbers = count()

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.number = next(self._numbers)
        self.hook: Any = None

    def remove(self) -> None:
        """End it: from the next step on, dead entries move as the optimizer moves them."""
        if self.hook is not None:
            self.hook.remove()
        for owner in self.module.modules():
            forget(owner, self.number)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


Entries = list[tuple[str, nn.Parameter, Tensor]]


def _given(module: nn.Module, masks: Mapping[str, Tensor]) -> Entries:
    """Names, parameters and masks as given."""
    known = originals(module) | plain_names(module)
    names = known_names(_read.mapping(masks, "masks"), known, "parameters", "masks")
    return [(n, known[n], checked_mask(masks[n], known[n], None, repr(n))) for n in names]


def _masked(module: nn.Module) -> Entries:
    """What is pruned now, by either adapter."""
    for owner in module.modules():
        reshard(owner)
    sites = {name: dotted(module, name) for name in pruned_names(module)}
    known = originals(module)
    pruned = [(name, state.parameter(*site), state.kept_now(*site)) for name, site in sites.items()]
    return pruned + [(n, known[n], zero_one(mask, repr(n))) for n, mask in masks_in(module).items()]


def _held(module: nn.Module, watcher: int) -> Entries:
    """What is pruned now, and what `remove` made permanent since the watcher came."""
    notes = [(name, *entry) for owner in list(module.modules()) for name, entry in watch(owner, watcher).items()]
    return _masked(module) + [entry for entry in notes if entry[1].shape == entry[2].shape]


def _refuse_strangers(optimizer: Optimizer, entries: Entries, *, all_of_them: bool) -> None:
    if not entries:
        raise ValueError("`module` has no pruned parameter: prune it first, or pass masks={name: mask}.")
    known = owned(optimizer)
    strangers = [name for name, param, _ in entries if id(param) not in known]
    if strangers and (all_of_them or len(strangers) == len(entries)):
        raise ValueError(f"`optimizer` does not hold {strangers}. Make it from module.parameters().")
