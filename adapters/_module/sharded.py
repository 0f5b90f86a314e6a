"""Modules under `fully_shard`: which of its parameters is where, and masks that lie as the parameters do just now.

`fully_shard` puts whole parameters into a module for a forward pass and shards afterwards, by the name it once found
them under. It has no public way to hear of a new name, so that its own record of the place is written here.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from masklib import _read
from masklib._shards._layout import layout, like
from masklib._shards._parts import gathered_as, on_part
from masklib._shards._wire import Wire

_found: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()  # what shards parameters, by whose they were


def is_managed(module: nn.Module) -> bool:
    """Whether `fully_shard` looks after a module."""
    return "_is_fsdp_managed_module" in module.__dict__


def follow(module: nn.Module, name: str, to: nn.Module, new: str) -> None:
    """Tell what shards a parameter that it has moved."""
    for info in (param._module_info for param in _sharding(module, to)):
        if info.module is module and info.param_name == name:
            info.module, info.param_name = to, new
        shared = list(zip(info.shared_modules, info.shared_param_names))
        if (module, name) in shared:
            moved = [(to, new) if place == (module, name) else place for place in shared]
            info.shared_modules[:] = [m for m, _ in moved]
            info.shared_param_names[:] = [n for _, n in moved]


def places(module: nn.Module) -> Callable[[], None]:
    """What tells where a module's parameters are now."""
    infos = [param._module_info for param in _sharding(module)]
    before = [(i, i.module, i.param_name, list(i.shared_modules), list(i.shared_param_names)) for i in infos]

    def put_back() -> None:
        for info, owner, name, modules, names in before:
            info.module, info.param_name = owner, name
            info.shared_modules[:], info.shared_param_names[:] = modules, names

    return put_back


def reshard(module: nn.Module) -> None:
    """Shard again what a forward pass left whole: what is written into whole parameters is lost."""
    if is_managed(module) and any(p.sharded_state.name != "SHARDED" for p in _sharding(module)):
        _reshard(module)


def copied(module: nn.Module) -> nn.Module:
    """A deep copy, which torch does not make of what is sharded."""
    try:
        return copy.deepcopy(module)
    except AssertionError as error:
        managed = [type(m).__name__ for m in module.modules() if is_managed(m)]
        if not managed:
            raise
        raise ValueError(
            f"`module` is under fully_shard, {managed[0]} for one, which torch does not copy. "
            "Call remove on its parameters in place, or load to_dense(module.state_dict()) into another module."
        ) from error


def _reshard(module: nn.Module) -> None:
    own = set(map(id, _sharding(module)))
    for group in _groups():
        if own & set(map(id, group.fsdp_params)):
            if group._training_state.name != "IDLE":
                raise ValueError(
                    f"{type(module).__name__} is in a forward or backward pass of fully_shard. Prune between steps."
                )
            group.reshard()


def _sharding(*modules: nn.Module) -> list[Any]:
    """What shards the parameters of modules: they, or the modules that their parameters moved from, are known."""
    for module in modules:
        if is_managed(module) and module not in _found:
            _find()
    known = {id(p): p for m in modules for r in _found.get(m, ()) if (p := r()) is not None}
    return list(known.values())


def _find() -> None:
    for group in _groups():
        for param in group.fsdp_params:
            info = param._module_info
            for module in (info.module, *info.shared_modules):
                entries = _found.setdefault(module, [])
                if not any(entry() is param for entry in entries):
                    entries.append(ref(param))


def _groups() -> Iterator[Any]:
    """The groups of parameters that `fully_shard` made."""
    states = sys.modules.get("torch.distributed._composable_state")
    for entry in list(states._module_state_mapping.values()) if states else ():
        state: Any = entry() if isinstance(entry, ref) else entry
        one = getattr(state, "_fsdp_param_group", None) if not hasattr(state, "_fsdp_param_groups") else None
        yield from getattr(state, "_fsdp_param_groups", [one] if one else [])


# ---- where tensors lie ----------------------------------------------------------------------------------------------


class Lies(NamedTuple):
    """The mesh, the placements and the shape of a DTensor whose part this rank holds."""

    kind: Any
    mesh: Any
    placements: Any
    shape: Any

    def of(self, part: Tensor) -> Tensor:
        """The DTensor of which this rank holds a contiguous part."""
        strides = torch.empty(self.shape, device="meta").stride()
        how = {"run_check": False, "shape": self.shape, "stride": strides}
        return self.kind.from_local(part, self.mesh, self.placements, **how)

    def on_all(self, flag: bool) -> bool:
        """Whether something is so on all ranks."""
        return bool(Wire(self.mesh).rows(lambda: [int(flag)], 1).all())


def lies(tensor: Any) -> Lies | None:
    """Where a tensor lies, None if it is whole."""
    if not _read.is_sharded(tensor):
        return None
    return Lies(type(tensor), tensor.device_mesh, tensor.placements, tensor.shape)


# ---- masks ----------------------------------------------------------------------------------------------------------


def aligned(mask: Tensor, orig: Tensor) -> Tensor:
    """A mask as its parameter is just now: sharded, or whole in a forward pass, for which its bits are gathered."""
    if type(mask) is Tensor and type(orig) in (nn.Parameter, Tensor):
        return mask
    if not _read.is_sharded(mask):
        return own_part(mask, orig) if _read.is_sharded(orig) else mask
    if not _read.is_sharded(orig):
        return _bits(mask).full_tensor()
    if mask.device_mesh == orig.device_mesh and list(mask.placements) == list(orig.placements):  # type: ignore[attr-defined]
        return mask
    if mask.device_mesh.ndim > orig.device_mesh.ndim:  # type: ignore[attr-defined]
        return gathered_as(_bits(mask), orig)
    return own_part(_bits(mask).full_tensor(), orig)  # of what is sharded over fewer ranks after a pass


def own_part(mask: Tensor, orig: Any) -> Tensor:
    """What of a whole mask belongs to this rank's part of a parameter; nothing crosses between ranks."""
    for dim, axis in enumerate(layout(orig, orig.device_mesh, "the parameter").axes()):
        mask = mask.index_select(dim, axis.flatten().to(mask.device))
    return like(mask, orig)


def _bits(mask: Tensor) -> Any:
    return on_part(lambda part: part != 0, mask)


def agreed(work: Callable[[], Any], tensor: Any) -> Any:
    """What the work returns; beside a sharded tensor all ranks raise what one of them raises."""
    if not (isinstance(tensor, Tensor) and _read.is_sharded(tensor)):
        return work()
    return Wire(tensor.device_mesh).agree(work)  # type: ignore[attr-defined]
