"""The pruned state of a parameter: `name_orig`, `name_mask`, the hook, and the ways in and out.

The tables of the module that change are replaced, never written into: a shallow copy shares them, and what they were
is put back by putting them back. Nothing here decides who dies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import reduce
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.hooks import RemovableHandle

from masklib import _read
from masklib._shards._parts import on_part
from masklib.masking import masked, where_kept

from .computed import MARK, install, mark, owner_of, unmark
from .sharded import agreed, aligned, follow, is_managed, reshard
from .values import check_values, zero_one

Place = tuple[nn.Module, str]


def parameter(module: nn.Module, name: str) -> nn.Parameter:
    """The parameter behind a name, pruned or not; if it is sharded, never the whole one of a forward pass."""
    reshard(module)
    if is_marked(module, name):
        return getattr(module, f"{name}_orig")
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("a scripted module cannot be pruned. Prune first, then script prune.bake(module).")
    value = module._parameters.get(name)
    if value is None:
        _refuse_no_parameter(module, name)
    if type(value) is not nn.Parameter:
        check_values(value, f"{name!r} of {type(module).__name__}")
    return value


def is_marked(module: nn.Module, name: str) -> bool:
    """Whether the name is pruned."""
    return name in module.__dict__.get(MARK, ())


def hook_of(module: nn.Module, name: str) -> Any:
    """What prunes the name now, if anything."""
    return module.__dict__.get(MARK, {}).get(name)


def mask_of(module: nn.Module, name: str) -> Tensor:
    """Who is alive of a pruned parameter, as bool."""
    look(module, name)
    return kept_now(module, name)


def kept_now(module: nn.Module, name: str) -> Tensor:
    """The same without a look at the values of a sharded mask, for which ranks would wait for one another."""
    mask = getattr(module, f"{name}_mask")
    module.__dict__[MARK][name]._seen.look(mask, module, name)
    return on_part(lambda part: part != 0, aligned(mask, parameter(module, name)))


def look(module: nn.Module, name: str) -> None:
    """Refuse a mask of other values than 0 and 1; of a sharded one all ranks refuse it."""
    mask = getattr(module, f"{name}_mask")
    if _read.is_sharded(mask):
        agreed(lambda: zero_one(mask.detach(), f"parameter {name!r} of {type(module).__name__}"), mask)
    module.__dict__[MARK][name]._seen.look(mask, module, name)


def peek(module: Any, name: Any) -> Any:
    """The tensor behind a name, if there is one."""
    if not isinstance(module, nn.Module) or not isinstance(name, str):
        return None
    stored = f"{name}_orig" if is_marked(module, name) else name  # the table of a scripted module has no `get`
    return module._parameters[stored] if stored in module._parameters else None  # noqa: SIM401


def alive_at(places: Iterable[Place]) -> Tensor | None:
    """Who is alive at every place of one parameter, as bool; None if it is pruned at none of them."""
    masks = [mask_of(*place) for place in places if is_marked(*place)]
    return reduce(both, masks) if masks else None


def both(a: Tensor, b: Tensor) -> Tensor:
    """Who is alive in two masks of one parameter."""
    return on_part(torch.logical_and, a, b)


def or_all(alive: Tensor | None, orig: Tensor) -> Tensor:
    """Who is alive, as bool: all of them if None."""
    return on_part(lambda part: torch.ones_like(part, dtype=torch.bool), orig.detach()) if alive is None else alive


def now(orig: Tensor, alive: Tensor | None) -> Tensor:
    """The values to rank: the parameter under its mask."""
    return orig.detach() if alive is None else on_part(lambda p, a: where_kept(a, p), orig.detach(), alive)


# ---- what is read ---------------------------------------------------------------------------------------------------


class Seen:
    """The mask that was last found to hold 0 and 1 only: a mask is looked at again when it was written to.

    A read costs a comparison of two numbers for that, and a pass over the mask when they differ.
    """

    def __init__(self, mask: Tensor | None = None) -> None:
        self.last = None if mask is None else (id(mask), mask._version)

    def look(self, mask: Any, module: nn.Module, name: str) -> None:
        """Refuse another mask than of 0 and 1, wherever tensors have values."""
        if type(mask) is not Tensor or mask.is_inference():
            return
        version = id(mask), mask._version
        if version != self.last and _has_values(mask):
            zero_one(mask.detach(), f"parameter {name!r} of {type(module).__name__}")
            self.last = version

    def __reduce__(self) -> Any:
        """Let each copy look for itself."""
        return Seen, ()


def _has_values(mask: Tensor) -> bool:
    """Whether one can look into a tensor here: not under a transform or while a graph is recorded."""
    hidden = (
        mask.is_meta
        or torch._C._functorch.is_functorch_wrapped_tensor(mask)
        or torch._C._get_tracing_state() is not None
    )
    return not hidden and not torch._C._len_torch_dispatch_stack()


def effective(orig: Tensor, mask: Tensor, sparse: bool = False) -> Tensor:
    """where(mask, orig, 0), which lets no NaN through; its gradient, `sparse` or not, is zero likewise."""
    if type(mask) is not Tensor or type(orig) is not nn.Parameter:  # sharded, perhaps
        return on_part(_WithSparseGradient.apply if sparse else masked, orig, aligned(mask, orig))
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


# ---- in and out -----------------------------------------------------------------------------------------------------


def enter(module: nn.Module, name: str, hook: Any, mask: Tensor, key: Any) -> None:
    """Begin or update the pruned state: rename the parameter in its place, set the mask, put the hook at its key."""
    owner, state = owner_of(type(module)), module.__dict__
    if not is_marked(module, name):
        _refuse_taken(module, name)
        install(owner, name)
        _rename(module, name, f"{name}_orig")
    state["_buffers"] = {**state["_buffers"], f"{name}_mask": mask}
    state["_non_persistent_buffers_set"].discard(f"{name}_mask")
    hooks = state["_forward_pre_hooks"]
    if not hooks:  # else handles hold it, by which users end their hooks
        state["_forward_pre_hooks"] = hooks = OrderedDict()
    hooks[RemovableHandle(hooks).id if key is None else key] = hook
    hook._owner, hook._seen = owner, Seen(mask)
    mark(module, name, hook)


def leave(module: nn.Module, name: str) -> None:
    """End the pruned state: the parameter gets its name and place back."""
    if f"{name}_orig" not in module._parameters:
        raise ValueError(f"'{name}_orig' of {type(module).__name__} is no parameter any more. Remove what replaced it.")
    _rename(module, f"{name}_orig", name)
    buffers = module._buffers.copy()
    del buffers[f"{name}_mask"]
    module.__dict__["_buffers"] = buffers
    unmark(module, name)


def _rename(module: nn.Module, old: str, new: str) -> None:
    table = module.__dict__["_parameters"]
    module.__dict__["_parameters"] = type(table)([(new if n == old else n, value) for n, value in table.items()])
    if is_managed(module):
        follow(module, old, module, new)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse_no_parameter(module: nn.Module, name: str) -> NoReturn:
    """Say what the name is instead; a parametrized tensor is not computed for it, which might change its state."""
    kind = "parametrized" if is_parametrized(module, name) else type(getattr(module, name)).__name__
    own = [n for n, p in module._parameters.items() if p is not None]
    other = kind == "parametrized" or any(f"{name}{end}" in own for end in ("_orig", "_g", "_v"))
    hint = " Somebody else has pruned or normed it: undo that first." if other else ""
    raise TypeError(
        f"`name` must name a parameter of the module, but {name!r} of {type(module).__name__} is {kind}. "
        f"Its parameters: {own}.{hint}"
    )


def _refuse_taken(module: nn.Module, name: str) -> None:
    state, kind = module.__dict__, type(module)
    for taken in (f"{name}_orig", f"{name}_mask"):
        own = taken in state["_parameters"] or taken in state["_buffers"] or taken in state["_modules"]
        if own or taken in state or hasattr(kind, taken):
            raise ValueError(
                f"{type(module).__name__} already has an attribute {taken!r}, which pruning {name!r} would overwrite. "
                "Rename it first."
            )
