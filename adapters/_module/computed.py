"""The pruned tensor as an attribute that is computed whenever it is read.

A data descriptor on the module's class answers for the instances that carry a mark, and steps aside for all others.
The mark, in the instance's `__dict__`, maps the tensor's name to the hook that computes it, so copies and pickles of
the module carry it along. A mark is replaced, never written into: a shallow copy shares it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.utils import parametrize

from .sharded import reshard

MARK = "_masklib_pruned"
_NOTHING: Any = object()


class PlainModule(nn.Module):
    """The class of a bare `nn.Module` while it is pruned: `nn.Module` itself is never touched."""


class EffectiveTensor:
    """Reads as `hook.apply_mask(module)` on marked instances, and as an ordinary attribute on all others."""

    def __init__(self, name: str, owner: type) -> None:
        self.name = name
        self.owner = owner

    def __get__(self, module: nn.Module | None, kind: type) -> Any:
        if module is None:
            return getattr(super(self.owner, kind), self.name)
        state, name = module.__dict__, self.name
        marks = state.get(MARK)
        if marks is not None and name in marks:
            return state[name] if name in state else _computed(marks[name], module, name)
        if name not in state and name in state.get("_parameters", ()):  # every layer of the class is read here
            return state["_parameters"][name]
        return self._ordinary(module)

    def __set__(self, module: nn.Module, value: Any) -> None:
        refuse(module, self.name, "assign")
        later = self._later(module)
        if hasattr(type(later), "__set__"):
            later.__set__(module, value)
        else:
            module.__dict__[self.name] = value

    def __delete__(self, module: nn.Module) -> None:
        refuse(module, self.name, "delete")
        later = self._later(module)
        if hasattr(type(later), "__delete__"):
            later.__delete__(module)
        elif self.name in module.__dict__:
            del module.__dict__[self.name]
        else:
            raise AttributeError(self.name)

    def _later(self, module: nn.Module) -> Any:
        """What a class behind the owner has under the name: a method or a property of a mixin, say."""
        order = type(module).__mro__
        behind = order[order.index(self.owner) + 1 :]
        return next((vars(kind)[self.name] for kind in behind if self.name in vars(kind)), _NOTHING)

    def _ordinary(self, module: nn.Module) -> Any:
        """What the attribute would be if the owner did not have this descriptor."""
        later = self._later(module)
        data = hasattr(type(later), "__set__") or hasattr(type(later), "__delete__")
        if self.name in module.__dict__ and not data:
            return module.__dict__[self.name]
        if later is _NOTHING:
            return module.__getattr__(self.name)
        return later.__get__(module, type(module)) if hasattr(type(later), "__get__") else later


def _computed(hook: Any, module: nn.Module, name: str) -> Any:
    """The pruned tensor; the same one throughout `torch.nn.utils.parametrize.cached()`."""
    if not parametrize._cache_enabled:
        return hook.apply_mask(module)
    key: Any = (id(module), name)
    if parametrize._cache.get(key) is None:
        parametrize._cache[key] = hook.apply_mask(module)
    return parametrize._cache[key]


def _guarded(owner: Any) -> Any:
    """What assigning a Parameter ends in: refused for a pruned name, else as before."""

    def register_parameter(self: Any, name: str, param: nn.Parameter | None) -> None:
        refuse(self, name, "assign")
        super(owner, self).register_parameter(name, param)

    return register_parameter


def refuse(module: nn.Module, name: str, action: str) -> None:
    """Raise if the name is pruned."""
    if name in module.__dict__.get(MARK, ()):
        raise AttributeError(
            f"cannot {action} {name!r} of {type(module).__name__} while it is pruned: it is computed from "
            f"'{name}_orig' and '{name}_mask'. Use '{name}_orig', remove() the pruning first, or work on bake(module)."
        )


class FlatWeights:
    """`_flat_weights` of an RNN, read afresh while any of its weights is pruned."""

    def __get__(self, module: nn.Module | None, owner: type) -> Any:
        if module is None:
            raise AttributeError(f"type object {owner.__name__!r} has no attribute '_flat_weights'")
        if module.__dict__.get(MARK):
            return [getattr(module, name, None) for name in module.__dict__["_flat_weights_names"]]
        if "_flat_weights" not in module.__dict__:
            return module.__getattr__("_flat_weights")
        return module.__dict__["_flat_weights"]

    def __set__(self, module: nn.Module, value: Any) -> None:
        if not module.__dict__.get(MARK):
            module.__dict__["_flat_weights"] = value


def no_update() -> None:
    """What `_update_flat_weights` does while the flat weights are read afresh."""


def plain(module: nn.Module) -> dict[str, nn.Parameter]:
    """The module's own parameters, by the name they have when they are not pruned, never whole ones of a pass."""
    reshard(module)
    own = {name: param for name, param in module._parameters.items() if param is not None}
    if MARK not in module.__dict__:
        return own
    pruned = {f"{name}_orig": name for name in module.__dict__[MARK]}
    return {pruned.get(name, name): param for name, param in own.items()}


def owner_of(kind: type) -> type:
    """The class that carries the descriptors: the one next to `nn.Module`, which class swaps leave in place."""
    order = kind.__mro__
    for base in reversed(order[: order.index(nn.Module)]):
        if issubclass(base, nn.Module):  # no mixin
            return base
    return PlainModule


def _refuse_submodule(module: nn.Module, name: str, _: Any) -> None:
    """Assigning a module passes by all descriptors, but is announced."""
    refuse(module, name, "assign")


@cache
def _watch_submodules() -> None:
    register_module_module_registration_hook(_refuse_submodule)


def install(owner: type, name: str) -> None:
    """Put the descriptors on the class, once; last the one by which the next call knows that all are there."""
    if isinstance(vars(owner).get(name), EffectiveTensor):
        return
    _watch_submodules()
    if "register_parameter" not in vars(owner):
        owner.register_parameter = _guarded(owner)  # type: ignore[attr-defined]
    if issubclass(owner, nn.RNNBase) and "_flat_weights" not in vars(owner):
        owner._flat_weights = FlatWeights()  # type: ignore[assignment]
    if name not in vars(owner):
        setattr(owner, name, EffectiveTensor(name, owner))


def mark(module: nn.Module, name: str, hook: Any) -> None:
    """From now on compute the tensor with the hook."""
    if type(module) is nn.Module:
        module.__class__ = PlainModule
    module.__dict__[MARK] = {**module.__dict__.get(MARK, {}), name: hook}
    if isinstance(module, nn.RNNBase):
        module.__dict__["_update_flat_weights"] = no_update
        module.__dict__.pop("_flat_weights", None)


def unmark(module: nn.Module, name: str) -> None:
    """Make the tensor an ordinary attribute again."""
    module.__dict__[MARK] = {n: hook for n, hook in module.__dict__[MARK].items() if n != name}
    if module.__dict__[MARK]:
        return
    del module.__dict__[MARK]
    if type(module) is PlainModule:
        module.__class__ = nn.Module  # type: ignore[assignment]
    if isinstance(module, nn.RNNBase):
        del module.__dict__["_update_flat_weights"]
        module._init_flat_weights()
