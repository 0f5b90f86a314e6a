"""Where a pruned parameter lives: `name_orig`, `name_mask`, the hook, and the ways in and out of that state.

Everything here touches the module, all or nothing; nothing here decides who dies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.weak import WeakTensorKeyDictionary

from masklib.masking import masked

from ._attribute import MARK, install, mark, owner_of, unmark


class BadShape(ValueError, AssertionError):
    """A tensor of the wrong shape (torch.nn.utils.prune raises AssertionError)."""


def parameter(module: nn.Module, name: str) -> nn.Parameter:
    """The parameter behind a name, pruned or not."""
    if is_marked(module, name):
        return getattr(module, f"{name}_orig")
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("a scripted module cannot be pruned. Prune first, then script prune.bake(module).")
    value = module._parameters.get(name)
    if value is None:
        _refuse_no_parameter(module, name)
    if isinstance(value, nn.parameter.UninitializedParameter):
        raise ValueError(f"{name!r} of {type(module).__name__} is not initialized. Run a forward pass first.")
    if any(base.__name__ == "DTensor" for base in type(value).__mro__):
        raise TypeError(
            f"{name!r} of {type(module).__name__} is a DTensor. Prune before sharding, on the whole tensor."
        )
    return value


def _refuse_no_parameter(module: nn.Module, name: str) -> NoReturn:
    """Say what the name is instead; a parametrized tensor is not computed for it, which might change its state."""
    kind = "parametrized" if is_parametrized(module, name) else type(getattr(module, name)).__name__
    own = [n for n, p in module._parameters.items() if p is not None]
    other = kind == "parametrized" or f"{name}_orig" in own
    hint = " Somebody else has pruned or normed it: undo that first." if other else ""
    raise TypeError(
        f"`name` must name a parameter of the module, but {name!r} of {type(module).__name__} is {kind}. "
        f"Its parameters: {own}.{hint}"
    )


def check_values(param: Tensor, what: str) -> None:
    """Refuse a parameter without values."""
    if param.is_meta:
        raise ValueError(f"{what} has no values yet: it is on the meta device. Load or initialize it first.")


def is_marked(module: nn.Module, name: str) -> bool:
    """Whether the name is pruned."""
    return name in module.__dict__.get(MARK, ())


def mask_of(module: nn.Module, name: str) -> Tensor:
    """Who is alive of a pruned parameter, as bool."""
    return getattr(module, f"{name}_mask") != 0


def alive_at(sites: Iterable[tuple[nn.Module, str]]) -> Tensor | None:
    """Who is alive at every site of one parameter, as bool; None if none of them is pruned."""
    masks = [mask_of(*site) for site in sites if is_marked(*site)]
    return reduce(torch.logical_and, masks) if masks else None


def hook_of(module: nn.Module, name: str) -> Any:
    """What prunes the name now, if anything."""
    return module.__dict__.get(MARK, {}).get(name)


def or_all(alive: Tensor | None, orig: Tensor) -> Tensor:
    """Who is alive, as bool: all of them if None."""
    return torch.ones_like(orig, dtype=torch.bool) if alive is None else alive


def now(orig: Tensor, alive: Tensor | None) -> Tensor:
    """The values to rank: the parameter under its mask."""
    return orig.detach() if alive is None else torch.where(alive, orig.detach(), orig.new_zeros(()))


def effective(orig: Tensor, mask: Tensor, sparse: bool = False) -> Tensor:
    """where(mask, orig, 0), which lets no NaN through; its gradient, `sparse` or not, is zero likewise."""
    if sparse:
        return _WithSparseGradient.apply(orig, mask)
    return masked(orig, mask)


class _WithSparseGradient(torch.autograd.Function):
    """The same for embeddings whose gradients are sparse tensors, which only a product can take."""

    generate_vmap_rule = True

    @staticmethod
    def forward(orig: Tensor, mask: Tensor) -> Tensor:
        return masked(orig, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient * ctx.saved_tensors[0].to(gradient.dtype), None


def checked_mask(mask: Any, orig: Tensor, alive: Tensor | None, where: str) -> Tensor:
    """A mask from outside as bool: 0/1 values, the parameter's shape, and within what is alive."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"the mask of {where} must be a torch.Tensor, got {type(mask).__name__}.")
    if mask.shape != orig.shape:
        raise BadShape(f"the mask of {where} must have its shape, {tuple(orig.shape)}, got {tuple(mask.shape)}.")
    kept = mask.detach().to(orig.device) != 0
    if mask.dtype != torch.bool and not torch.equal(kept.to(mask.dtype), mask.detach().to(orig.device)):
        raise ValueError(f"the mask of {where} must hold 0 and 1 only. Pass (mask > 0.5), say.")
    return kept if alive is None else kept & alive


def scores_for(t: Tensor, importance_scores: Tensor | None, what: str) -> Tensor:
    """The scores given for a tensor, detached; the tensor itself if there are none."""
    if importance_scores is None:
        return t
    if not isinstance(importance_scores, Tensor):
        raise TypeError(f"`importance_scores` must be a torch.Tensor, got {type(importance_scores).__name__}.")
    if importance_scores.shape != t.shape:
        raise BadShape(
            f"`importance_scores` must have the shape of {what}, {tuple(t.shape)}, "
            f"got {tuple(importance_scores.shape)}."
        )
    if importance_scores.device != t.device:
        raise ValueError(
            f"`importance_scores` must be on the device of {what}, {t.device}, got {importance_scores.device}. "
            f"Pass importance_scores.to({str(t.device)!r})."
        )
    return importance_scores.detach()


def as_buffer(kept: Tensor, orig: Tensor) -> Tensor:
    """A fresh mask in the parameter's dtype and layout, usable for training."""
    with torch.inference_mode(False):
        return torch.empty_like(orig, requires_grad=False).copy_(kept)


_removed: Any = WeakTensorKeyDictionary()  # watched parameter -> bool, who was alive at `remove`; None: all


def forget(params: Iterable[Tensor]) -> None:
    """Begin anew."""
    for param in params:
        _removed.pop(param, None)


def watch(param: Tensor) -> Tensor | None:
    """From now on remember what `remove` makes permanent in a parameter; return what it has."""
    return _removed.setdefault(param, None)


def remember(param: Tensor, kept: Tensor) -> None:
    """Note that a mask was made permanent, if somebody watches."""
    if param in _removed:
        before = _removed[param]
        _removed[param] = kept if before is None else kept & before


@contextmanager
def unchanged_on_error(modules: list[nn.Module], values: Tensor | None = None) -> Iterator[None]:
    """Put the modules' tables, the random state, and the values of a parameter if given, back if anything fails."""
    modules = [m for m in modules if not isinstance(m, torch.jit.ScriptModule)]  # which nothing here changes
    before = None if values is None else values.detach().clone()
    tables = [(m, {t: dict(m.__dict__[t]) for t in _TABLES}, dict(m.__dict__.get(MARK, {})), type(m)) for m in modules]
    hooks = [hook.snapshot() for _, _, marks, _ in tables for hook in marks.values()]
    devices = {p.device for m in modules for p in m.parameters(recurse=False) if p.is_cuda}
    random = torch.get_rng_state(), {d: torch.cuda.get_rng_state(d) for d in devices}
    try:
        yield
    except BaseException:
        torch.set_rng_state(random[0])
        for device, state in random[1].items():
            torch.cuda.set_rng_state(state, device)
        for module, saved, marks, kind in tables:
            _put_back(module, saved, marks, kind)
        for put_back in hooks:
            put_back()
        if values is not None and before is not None:
            values.detach().copy_(before)
        raise


_TABLES = ("_parameters", "_buffers", "_forward_pre_hooks")


def _put_back(module: nn.Module, saved: dict[str, dict[str, Any]], marks: dict[str, Any], kind: type) -> None:
    for table, entries in saved.items():
        target = module.__dict__[table]
        target.clear()
        target.update(entries)
    for name in set(module.__dict__.get(MARK, ())) - set(marks):
        unmark(module, name)
    for name, hook in marks.items():
        mark(module, name, hook)
    module.__class__ = kind


def enter(module: nn.Module, name: str, hook: Any, mask: Tensor, key: Any) -> None:
    """Begin or update the pruned state: rename the parameter in its place, set the mask, put the hook at its key."""
    if is_marked(module, name):
        module._buffers[f"{name}_mask"] = mask
    else:
        _refuse_taken(module, name)
        install(owner_of(module), name)
        _rename(module, name, f"{name}_orig")
        module.register_buffer(f"{name}_mask", mask)
    if key is None:
        module.register_forward_pre_hook(hook)
    else:
        module._forward_pre_hooks[key] = hook
    hook._owner = owner_of(module)
    mark(module, name, hook)


def leave(module: nn.Module, name: str) -> None:
    """End the pruned state: the parameter gets its name and place back."""
    if f"{name}_orig" not in module._parameters:
        raise ValueError(f"'{name}_orig' of {type(module).__name__} is no parameter any more. Remove what replaced it.")
    _rename(module, f"{name}_orig", name)
    del module._buffers[f"{name}_mask"]
    unmark(module, name)


def _refuse_taken(module: nn.Module, name: str) -> None:
    for taken in (f"{name}_orig", f"{name}_mask"):
        if hasattr(module, taken):
            raise ValueError(
                f"{type(module).__name__} already has an attribute {taken!r}, which pruning {name!r} would overwrite. "
                "Rename it first."
            )


def _rename(module: nn.Module, old: str, new: str) -> None:
    entries = [(new if name == old else name, value) for name, value in module._parameters.items()]
    module._parameters.clear()
    module._parameters.update(entries)
