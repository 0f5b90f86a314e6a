"""Which tensors of a checkpoint are pruned, told by names, shapes and dtypes alone, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from masklib import _read

from ._names import shown

Names = str | Iterable[str] | Callable[[str, Tensor], bool] | None

_FLOATING = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2}
_SCALES = ("_scale", "_scale_inv", "_scale_2", ".scale", ".absmax")  # what tensors that are quantized come with
_TABLES = ("wte", "wpe", "shared", "emb")  # of GPT-2 and T5, and of RWKV
_UNNAMED = "not among `names`"


def picked(tensors: Mapping[str, Tensor], names: Names, tied: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The names of those that are pruned, and the reason of each other one.

    Args:
        tensors: all of a checkpoint, by name.
        names: which are meant, as for `prune_checkpoint`.
        tied: names of tensors that another one, under the name given, has the same elements as.

    Raises:
        TypeError: if `names` are none.
        ValueError: if a name fits nothing, or nothing is picked.
    """
    own = {n: t for n, t in tensors.items() if n not in tied}
    meant = {n: [n, *(other for other, first in tied.items() if first == n)] for n in own}
    if names is None:
        reasons = {n: _no_weight(n, t, tensors) or _tied_to_none(meant[n][1:], tensors) for n, t in own.items()}
    elif callable(names):
        reasons = {n: "" if any(_says(names, m, t) for m in meant[n]) else _UNNAMED for n, t in own.items()}
    else:
        patterns = _patterns(names, tensors)
        reasons = {n: _not_named(meant[n], t, patterns) for n, t in own.items()}
    found = [n for n, reason in reasons.items() if not reason]
    if not found:
        raise ValueError(
            f"`names` picks no tensor to prune. The tensors, and why not: {shown(_telling(reasons))}. "
            "Pass the names of those that are meant, for example names=['fc1.weight']."
        )
    others = {n: _own(n, tensors, names) or f"tied to {first!r}" for n, first in tied.items() if reasons[first]}
    return found, {n: reason for n, reason in (reasons | others).items() if reason}


def _telling(reasons: Mapping[str, str]) -> Mapping[str, str]:
    """The reasons that say most: those of tensors that were named, where there are any."""
    return {n: reason for n, reason in reasons.items() if reason != _UNNAMED} or reasons


def _no_weight(name: str, tensor: Tensor, all_of_them: Mapping[str, Any]) -> str:
    """Why a tensor is no matrix or kernel that people mean to prune; '' if it is one."""
    if tensor.dtype not in _FLOATING:
        return f"of {tensor.dtype}"
    scale = next((name + end for end in _SCALES if name + end in all_of_them), None)
    if scale is not None:
        return f"quantized: its numbers are to be scaled by {scale!r}"
    if tensor.dim() < 2:
        return "of one dim" if tensor.dim() else "a number"
    if "bias" in name.split(".")[-1].split("_"):
        return "a bias"
    if is_embedding(owner_of(name)):
        return "an embedding"
    return "a token" if owner_of(name).endswith("token") else ""


def _own(name: str, tensors: Mapping[str, Tensor], names: Names) -> str:
    """Why a tensor is no weight by itself, if nobody said which are meant."""
    return _no_weight(name, tensors[name], tensors) if names is None else ""


def _tied_to_none(others: list[str], tensors: Mapping[str, Tensor]) -> str:
    """Why what has the same elements is no weight."""
    reasons = {n: _no_weight(n, tensors[n], tensors) for n in others}
    return next((f"tied to {n!r}, {reason}" for n, reason in reasons.items() if reason), "")


def owner_of(name: str) -> str:
    """The module that a weight is of, or the tensor itself if it is called otherwise."""
    parts = name.split(".")
    return parts[-2] if parts[-1] == "weight" and len(parts) > 1 else parts[-1]


def is_embedding(owner: str) -> bool:
    """Whether the name of a module, or of a tensor without one, is that of a table of embeddings."""
    return ("embed" in owner.lower() and "proj" not in owner.lower()) or owner in _TABLES


# ---- names that are given -------------------------------------------------------------------------------------------


def _says(names: Callable[[str, Tensor], bool], name: str, tensor: Tensor) -> bool:
    answer = names(name, tensor)
    if not isinstance(answer, bool):
        raise TypeError(f"`names({name!r}, tensor)` must return a bool, got {answer!r}. For example 'mlp' in name.")
    return answer


def _patterns(names: Any, tensors: Mapping[str, Any]) -> list[str]:
    """Read names and globs, each of which must fit a tensor."""
    patterns = list(names) if isinstance(names, (list, tuple, Set, Mapping, Iterator)) else [names]
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(
                f"`names` must be names, globs, or a function `(name, tensor) -> bool`, got {shown(pattern)}. "
                "For example names=['*.mlp.*']."
            )
    idle = [p for p in patterns if p not in tensors and not any(fnmatchcase(n, p) for n in tensors)]
    if idle:
        raise ValueError(f"`names` has {shown(idle)}, which fit no tensor. The tensors: {shown(list(tensors))}.")
    return patterns


def _not_named(meant: list[str], tensor: Tensor, patterns: list[str]) -> str:
    """Why a tensor is not picked: whole names pick it whatever it is, globs if it is a matrix of floating numbers."""
    if any(name in patterns for name in meant):
        return ""
    if not any(fnmatchcase(name, p) for name in meant for p in patterns):
        return _UNNAMED
    if tensor.dtype not in _FLOATING:
        return f"of {tensor.dtype}"
    return "" if tensor.dim() > 1 else "of one dim"


def as_ranked(name: str, tensor: Tensor) -> Tensor:
    """What a method sees: the tensor itself, but for float8, whose numbers it sees in float32."""
    if tensor.is_floating_point() and tensor.dtype.itemsize == 1:
        if tensor.dtype not in _FLOATING:
            raise TypeError(
                f"{_read.place(name, 'source')} cannot be ranked, got {tensor.dtype}. Leave it out of `names`."
            )
        return tensor.float()
    return tensor
