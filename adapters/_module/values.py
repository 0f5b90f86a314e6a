"""Masks and scores that come from outside: how they are read, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from masklib import _read
from masklib._shards._parts import on_part

from .sharded import agreed


class BadShape(ValueError, AssertionError):
    """A tensor of the wrong shape (torch.nn.utils.prune raises AssertionError)."""


def a_module(value: Any, argument: str = "module") -> nn.Module:
    """Read a module."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"`{argument}` must be an nn.Module, got {type(value).__name__}. For example model.fc1.")
    return value


def a_name(value: Any) -> str:
    """Read the name of a parameter."""
    if not isinstance(value, str):
        raise TypeError(f"`name` must be the name of a parameter, got {value!r}. For example 'weight'.")
    return value


def checked_mask(mask: Any, orig: Tensor, alive: Tensor | None, where: str) -> Tensor:
    """A mask from outside as bool: 0/1 values, the parameter's shape, and within what is alive."""
    kept = agreed(lambda: _checked_here(mask, orig, where), orig)
    return kept if alive is None else on_part(torch.logical_and, kept, alive)


def _checked_here(mask: Any, orig: Tensor, where: str) -> Tensor:
    """What of the mask this rank can check."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"the mask of {where} must be a torch.Tensor, got {type(mask).__name__}.")
    _read.is_dense(mask, "", "mask")
    if mask.is_meta and not orig.is_meta:
        raise ValueError(f"the mask of {where} has no values: it is on the meta device.")
    if mask.shape != orig.shape:
        raise BadShape(f"the mask of {where} must have its shape, {tuple(orig.shape)}, got {tuple(mask.shape)}.")
    if _read.is_sharded(mask) or _read.is_sharded(orig):
        _read.same_placements(mask, orig, f"the mask of {where}", "the parameter", "mask")
    return zero_one(mask.detach().to(orig.device), where)


def masks_by_name(masks: Any) -> dict[str, Any]:
    """What a method of the core gave back for a mapping."""
    if not isinstance(masks, Mapping):
        raise TypeError(
            f"what `method` returns must be a mapping from names to masks, got {type(masks).__name__}. "
            "For example {name: scores[name] > 0 for name in scores}."
        )
    return dict(masks)


def zero_one(mask: Tensor, where: str) -> Tensor:
    """A mask of zeros and ones as bool."""
    if mask.dtype == torch.bool:
        return mask
    return on_part(lambda part: _zero_one_here(part, where), mask)


def _zero_one_here(mask: Tensor, where: str) -> Tensor:
    kept = mask != 0
    if not torch.equal(kept.to(mask.dtype), mask):
        other = mask[(mask != 0) & (mask != 1)][0].item()
        raise ValueError(
            f"the mask of {where} must hold 0 and 1 only, got {other:.6g}. Pass (mask > 0.5), say. "
            "Of an average of models, average the parameters alone and copy the masks of one: mask.copy_(its_mask)."
        )
    return kept


def scores_for(t: Tensor, importance_scores: Tensor | None, what: str) -> Tensor:
    """The scores given for a tensor, detached; the tensor itself if there are none."""
    if importance_scores is None:
        return t
    if not isinstance(importance_scores, Tensor):
        raise TypeError(f"`importance_scores` must be a torch.Tensor, got {type(importance_scores).__name__}.")
    _read.is_dense(importance_scores, "", "importance_scores")
    _read.rankable_each({"": importance_scores}, magnitude=True, argument="importance_scores")
    if importance_scores.shape != t.shape:
        raise BadShape(
            f"`importance_scores` must have the shape of {what}, {tuple(t.shape)}, "
            f"got {tuple(importance_scores.shape)}."
        )
    if _read.is_sharded(importance_scores) or _read.is_sharded(t):
        _read.same_placements(importance_scores, t, "`importance_scores`", what, "scores")
    if importance_scores.device != t.device:
        raise ValueError(
            f"`importance_scores` must be on the device of {what}, {t.device}, got {importance_scores.device}. "
            f"Pass importance_scores.to({str(t.device)!r})."
        )
    return importance_scores.detach()


def check_values(param: Tensor, what: str) -> None:
    """Refuse a parameter without values."""
    _read.is_initialized(param, what)
    if param.is_meta:
        raise ValueError(f"{what} has no values yet: it is on the meta device. Load or initialize it first.")


def as_buffer(kept: Tensor, orig: Tensor) -> Tensor:
    """A fresh mask in the parameter's dtype and layout, usable for training."""
    if not torch.is_inference_mode_enabled():
        return on_part(_copied, orig.detach(), kept)
    with torch.inference_mode(False):
        return on_part(_copied, orig.detach(), kept)


def _copied(orig: Tensor, kept: Tensor) -> Tensor:
    return torch.empty_like(orig, requires_grad=False).copy_(kept)
