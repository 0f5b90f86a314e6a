"""The door: arguments become plain values here, and nothing behind it asks again.

What more than one module reads is read here; what a single module takes is checked in that module. The wording is one:
a message names the argument, shows the value, says the cause and gives a call that works.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from masklib._names import named

REAL = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
INTEGER = {torch.int8, torch.int16, torch.int32, torch.int64}
UNSIGNED = {torch.uint8, torch.uint16, torch.uint32, torch.uint64}
RANKABLE = REAL | INTEGER | UNSIGNED


def place(name: str, argument: str) -> str:
    """Where a tensor stands, for messages: "`scores`", or "`scores` of 'fc1.weight'"."""
    return f"`{argument}` of {name!r}" if name else f"`{argument}`"


# ---- tensors and mappings -------------------------------------------------------------------------------------------


def tensors(value: Any, argument: str) -> Mapping[str, Tensor]:
    """Read a tensor or a mapping of strided tensors by name."""
    entries = named(value)
    for name, tensor in entries.items():
        is_name(name, argument)
        is_dense(tensor, name, argument)
    if len(entries) > 1:
        _refuse_some_meta(entries, argument)
    return entries


def is_name(name: Any, argument: str) -> None:
    """Refuse keys that are not names."""
    if not isinstance(name, str):
        raise TypeError(f"`{argument}` must be keyed by names (str), got the key {name!r}.")
    if not name.isascii() and name.encode(errors="replace").decode() != name:
        raise ValueError(f"`{argument}` must be keyed by text, got {name!r}, which has half of a character alone.")


def is_dense(tensor: Any, name: str, argument: str) -> None:
    """Refuse what is no dense tensor with one value for each entry."""
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{place(name, argument)} must be a torch.Tensor (or `{argument}` a mapping of them by name), "
            f"got {type(tensor).__name__}. For a module, pass dict(module.named_parameters())."
        )
    is_initialized(tensor, place(name, argument))
    if tensor.is_nested:
        raise TypeError(f"{place(name, argument)} must be a dense tensor, got a nested one. Pass its parts by name.")
    if tensor.layout != torch.strided:
        raise TypeError(
            f"{place(name, argument)} must be a dense tensor, got layout {tensor.layout}. Pass .to_dense()."
        )
    if tensor.is_quantized:
        raise TypeError(f"{place(name, argument)} must not be quantized, got {tensor.dtype}. Pass .dequantize().")
    if type(tensor).__name__ == "MaskedTensor":
        hint = "Pass .get_data() here, and .get_mask() where a mask is taken."
        raise TypeError(f"{place(name, argument)} must be a dense tensor, got a MaskedTensor. {hint}")


def is_initialized(tensor: Tensor, where: str) -> None:
    """Refuse a parameter or buffer of a lazy module, which has no shape yet."""
    if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
        raise ValueError(f"{where} is not initialized. Run a forward pass first.")


_PLAIN = (Tensor, torch.nn.Parameter)


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, whose module is not loaded for the question."""
    plain = type(tensor) in _PLAIN  # whose bases a compiler cannot iterate over
    return not plain and any(base.__name__ == "DTensor" for base in type(tensor).__mro__)


def is_any_sharded(*values: Any) -> bool:
    """Whether a DTensor is among some tensors, or mappings of them by name, whatever else they are."""
    for value in values:
        if value is None or type(value) in _PLAIN:  # asked of every call, so that the common case comes first
            continue
        entries = value.values() if isinstance(value, Mapping) else (value,)
        if any(isinstance(entry, Tensor) and is_sharded(entry) for entry in entries):
            return True
    return False


def is_whole(tensor: Tensor, where: str) -> None:
    """Refuse a DTensor, of which selection would see a shard alone."""
    if is_sharded(tensor):
        raise TypeError(f"{where} must be a whole tensor, got a DTensor. Pass .full_tensor(), on every rank.")


def is_not_batched(tensor: Tensor, where: str) -> None:
    """Refuse a DTensor inside a transform, from which nothing can cross to other ranks."""
    if not torch.compiler.is_compiling() and is_sharded(unwrapped(tensor)):
        raise TypeError(
            f"{where} must not be a DTensor inside torch.vmap or torch.func: ranking needs all ranks. "
            "Call masklib outside of the transform."
        )


def _refuse_some_meta(entries: Mapping[str, Tensor], argument: str) -> None:
    """Refuse tensors without values beside others that have them."""
    without = [name for name, tensor in entries.items() if tensor.device.type == "meta"]
    if without and len(without) < len(entries):
        raise ValueError(
            f"`{argument}` must be all on the meta device or none, got {without} there, without values. "
            "Load or initialize them first."
        )


def mapping(value: Any, argument: str) -> Mapping[str, Tensor]:
    """Read a mapping of tensors by name."""
    if not isinstance(value, Mapping):
        raise TypeError(
            f"`{argument}` must be a mapping of tensors by name, got {type(value).__name__}. "
            "For example dict(module.named_parameters())."
        )
    return tensors(value, argument)


def same_form(value: Any, like: Any, argument: str, reference: str) -> None:
    """Refuse a tensor where a mapping is expected, and the other way round."""
    if isinstance(value, Mapping) != isinstance(like, Mapping):
        raise TypeError(
            f"`{argument}` must be of the form of `{reference}`, {_form(like)}, got {_form(value)}. "
            "Pass a tensor with a tensor, and a mapping by name with a mapping."
        )


def _form(value: Any) -> str:
    return "a mapping" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def same_names(value: Mapping[str, Any], names: Mapping[str, Any], argument: str, reference: str = "scores") -> None:
    """Refuse a mapping that lacks a name of the reference or holds another one."""
    if not isinstance(value, Mapping):
        raise TypeError(
            f"`{argument}` must be a mapping with the names of `{reference}`, got {type(value).__name__}. "
            f"For example {{name: {argument}[name] for name in {reference}}}."
        )
    missing = [n for n in names if n not in value]
    unknown = [n for n in value if n not in names]
    if missing or unknown:
        raise ValueError(
            f"`{argument}` must have exactly the names of `{reference}`: missing {missing}, unknown {unknown}. "
            f"For example {{name: {argument}[name] for name in {reference}}}."
        )


def known_names(value: Mapping[str, Any], names: Mapping[str, Any], argument: str, reference: str) -> None:
    """Refuse names that the reference does not have."""
    unknown = [n for n in value if n not in names]
    if unknown:
        raise ValueError(f"`{argument}` has names that `{reference}` lacks: {unknown}. Known names: {list(names)}.")


# ---- masks ----------------------------------------------------------------------------------------------------------


def masks(value: Any, references: Any, argument: str, reference: str = "scores") -> Mapping[str, Tensor]:
    """Read masks: bool, with the names, shapes and devices of the reference."""
    entries = masks_of_any_shape(value, references, argument, reference)
    for name, tensor in named(references).items():
        same_shape(entries[name], tensor, place(name, argument), place(name, reference))
    return entries


def masks_of_any_shape(value: Any, references: Any, argument: str, reference: str = "scores") -> Mapping[str, Tensor]:
    """Read masks whose shapes are compared later."""
    same_form(value, references, argument, reference)
    entries, expected = tensors(value, argument), named(references)
    same_names(entries, expected, argument, reference)
    for name, mask in entries.items():
        is_mask(mask, expected[name], place(name, argument), place(name, reference))
    return entries


def mask_like(mask: Tensor, tensor: Tensor, where: str, reference: str) -> None:
    """Refuse a mask that is not bool or not of the tensor's shape and device."""
    is_mask(mask, tensor, where, reference)
    same_shape(mask, tensor, where, reference)


def is_mask(mask: Tensor, tensor: Tensor, where: str, reference: str) -> None:
    """Refuse a mask that is not bool or not on the tensor's device."""
    if mask.dtype != torch.bool:
        raise TypeError(f"{where} must be bool (True = kept), got {mask.dtype}. Pass mask != 0.")
    same_device(mask, tensor, where, reference, "mask")


def same_shape(value: Tensor, tensor: Tensor, where: str, reference: str) -> None:
    """Refuse a tensor whose shape is not the reference's."""
    if value.shape != tensor.shape:
        raise ValueError(
            f"{where} must have the shape of {reference}, {tuple(tensor.shape)}, got {tuple(value.shape)}."
        )


def same_device(value: Tensor, tensor: Tensor, where: str, reference: str, what: str = "it") -> None:
    """Refuse a tensor that is not where the reference is."""
    if is_sharded(value) or is_sharded(tensor):
        same_placements(value, tensor, where, reference, what)
    on_device(value, tensor, where, reference, what)


def on_device(value: Tensor, tensor: Tensor, where: str, reference: str, what: str = "it") -> None:
    """Refuse a tensor that is not on the reference's device, however the two are sharded."""
    if value.device != tensor.device:
        raise ValueError(
            f"{where} must be on the device of {reference}, {tensor.device}, got {value.device}. "
            f"Pass {what}.to({str(tensor.device)!r})."
        )


def same_placements(value: Tensor, tensor: Tensor, where: str, reference: str, what: str) -> None:
    """Refuse a tensor that is not sharded as the reference is."""
    given, wanted = unwrapped(value), unwrapped(tensor)
    if is_sharded(given) != is_sharded(wanted):
        kinds = [type(t).__name__ for t in (wanted, given)]
        hint = f"Pass distribute_tensor({what}, w.device_mesh, w.placements) of a DTensor w, or only plain tensors."
        raise TypeError(f"{where} must be a {kinds[0]} as {reference} is, got a {kinds[1]}. {hint}")
    if given.device_mesh != wanted.device_mesh:  # type: ignore[attr-defined]
        raise ValueError(
            f"{where} must be on the mesh of {reference}, {wanted.device_mesh}, got {given.device_mesh}. "  # type: ignore[attr-defined]
            "Distribute both over one mesh."
        )
    placements, expected = list(given.placements), list(wanted.placements)  # type: ignore[attr-defined]
    if placements != expected:
        raise ValueError(
            f"{where} must be sharded as {reference} is, by {expected}, got {placements}. "
            f"Pass {what}.redistribute(placements=[...]) with those."
        )


def unwrapped(tensor: Tensor) -> Tensor:
    """The tensor itself, out of what torch.func wraps around it."""
    functorch = torch._C._functorch
    while not torch.compiler.is_compiling() and functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def default_masks(value: Any, scores: Any) -> Mapping[str, Tensor | None]:
    """Read `default_mask`: None is all True everywhere."""
    return dict.fromkeys(named(scores)) if value is None else masks(value, scores, "default_mask")


# ---- dtypes ---------------------------------------------------------------------------------------------------------


def rankable(scores: Mapping[str, Tensor], magnitude: bool, argument: str = "scores") -> None:
    """Refuse dtypes without an order, and int64 beside floating ones (no common type holds both exactly)."""
    rankable_each(scores, magnitude=magnitude, argument=argument)
    dtypes = {t.dtype for t in scores.values()}
    if len(dtypes) == 1:
        return
    wide, floating = dtypes & {torch.int64, torch.uint64}, dtypes - INTEGER - UNSIGNED
    if (wide and floating) or (torch.uint64 in wide and dtypes & INTEGER):
        raise TypeError(
            f"`{argument}` of one pool must have a common exact type, got {sorted(map(str, dtypes))}. "
            f"Cast them to one dtype, for example {argument}.double()."
        )


def rankable_each(values: Mapping[str, Tensor], *, magnitude: bool = False, argument: str = "scores") -> None:
    """Refuse dtypes without an order, in tensors that are not compared with one another."""
    for name, tensor in values.items():
        if tensor.dtype in RANKABLE or (magnitude and tensor.is_complex()):
            continue
        hint = f"Pass {argument}.abs()." if tensor.is_complex() else f"Pass {argument}.float()."
        raise TypeError(f"{place(name, argument)} must be real floating or integer, got {tensor.dtype}. {hint}")


def inexact(value: Any, argument: str) -> Mapping[str, Tensor]:
    """Read floating or complex tensors by name."""
    entries = tensors(value, argument)
    for name, tensor in entries.items():
        if tensor.dtype not in REAL and not tensor.is_complex():
            raise TypeError(f"{place(name, argument)} must be floating, got {tensor.dtype}. Pass {argument}.float().")
    return entries


# ---- numbers and functions ------------------------------------------------------------------------------------------


def integer(value: Any, argument: str, example: str) -> int:
    """Read a plain integer argument such as a dim or a length."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{argument}` must be an int, got {value!r}. For example {example}.")
    return int(value)


def real(value: Any, argument: str, what: str, example: str) -> float:
    """Read a real number, NaN excluded."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"`{argument}` must be {what}, got {value!r}. For example {example}.")
    if value != value:
        raise ValueError(f"`{argument}` must be a number, got {value!r}. For example {example.split(',')[0]}.")
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        digits = f"an int of {value.bit_length()} bits"
        raise ValueError(f"`{argument}` must be a number that a float holds, got {digits}. For example {example}.")
    return float(value)


def order(value: Any, argument: str) -> float:
    """Read the order of a norm: any number, inf and -inf included."""
    return real(value, argument, "a number (inf and -inf included)", f"{argument}=2, the Frobenius norm")


def share(value: Any, argument: str) -> float:
    """Read a number in [0, 1]."""
    number = real(value, argument, "a number in [0, 1]", f"{argument}=0.9")
    if not 0 <= number <= 1:
        raise ValueError(f"`{argument}` must be a number in [0, 1], got {value!r}. For example {argument}=0.9.")
    return number


def key(value: Any) -> Tensor:
    """Read a 64-bit key as a 0-d int64 tensor; ints of [2**63, 2**64) are taken modulo 2**64."""
    if isinstance(value, Tensor):
        is_initialized(value, "`key`")
        if value.is_nested or value.dim() != 0 or value.dtype not in INTEGER:
            shown = "a nested one" if value.is_nested else f"{value.dtype} of shape {tuple(value.shape)}"
            raise TypeError(f"`key` must be an int or a 0-d int64 tensor, got {shown}. For example key=0.")
        has_value(value, "key", "key=0")
        return value.detach().to(torch.int64)
    number = integer(value, "key", "key=0")
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"`key` must fit in 64 bits, got {number}. For example key=0.")
    return torch.tensor((number + 2**63) % 2**64 - 2**63, dtype=torch.int64, device="cpu")


def has_value(tensor: Tensor, argument: str, example: str) -> None:
    """Refuse a number without a value, or one that is spread over a mesh."""
    is_whole(tensor, f"`{argument}`")
    if tensor.device.type == "meta":
        raise ValueError(f"`{argument}` must have a value, got a tensor on the meta device. For example {example}.")


def dimension(dim: int, tensor: Tensor, where: str) -> int:
    """Count a dim from the front, refusing one that the tensor does not have."""
    if not -tensor.dim() <= dim < tensor.dim():
        hint = "For example dim=-1." if tensor.dim() else "A 0-d tensor has none: use elements()."
        raise IndexError(
            f"`dim` must be a dimension of {where}, which has shape {tuple(tensor.shape)}, got {dim}. {hint}"
        )
    return dim % tensor.dim()


def flag(value: Any, argument: str, example: str) -> bool:
    """Read a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{argument}` must be a bool, got {value!r}. For example {example}.")
    return bool(value)


def iterates(value: Any) -> bool:
    """Whether a value holds others in a row; an array or a tensor without dims says so, and does not."""
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0


def function(value: Any, argument: str, example: str) -> None:
    """Refuse what cannot be called."""
    if not callable(value):
        raise TypeError(f"`{argument}` must be callable, got {value!r}. For example {example}.")
