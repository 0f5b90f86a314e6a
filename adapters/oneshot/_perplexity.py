"""Perplexity: what a language model makes of a text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from masklib import _read

from .._module.blocks import evaluating, refuse_empty, run
from .._module.values import a_module


def perplexity(model: nn.Module, windows: Iterable[Tensor]) -> float:
    """Measure how well a causal language model predicts the next token of some windows of text.

        exp(mean over tokens t of -log p(x_t | those before x_t in its window))

    Args:
        model: called with `input_ids=`, it gives `.logits` (batch, length, vocabulary) or these themselves; it is run
            without dropout, caches and gradients, and comes back in the mode it was in.
        windows: token ids, integers (length,) or (batch, length), of at least two tokens each.

    Returns:
        The perplexity: 1 for a model that is always sure and right, the size of the vocabulary for one that guesses.

    Raises:
        TypeError: if `model` is no module, or a window holds no integers.
        ValueError: if there are no windows, one has fewer than two tokens, or the model gives no finite loss.

    >>> class Guess(nn.Module):
    ...     def forward(self, input_ids):
    ...         return torch.zeros(*input_ids.shape, 50)
    >>> round(perplexity(Guess(), [torch.arange(8)]), 6)
    50.0

    Reference: Jelinek et al., "Perplexity, a measure of the difficulty of speech recognition tasks", 1977.
    """
    a_module(model, "model")
    refuse_empty(model)
    total, count = 0.0, 0
    with torch.no_grad(), evaluating(model):
        for window in map(_ids, _windows(windows)):
            logits = _logits(run(model, {"input_ids": window}, "windows"))
            _refuse_others(window, logits, "windows")
            total += _loss(logits[:, :-1], window[:, 1:].to(logits.device))
            count += window[:, 1:].numel()
    if not count:
        raise ValueError("`windows` must hold at least one window of tokens, got none. For example ids.split(512).")
    if not math.isfinite(total):
        raise ValueError(f"`model` gives a loss that is not finite, {total}. Are its weights finite?")
    return math.exp(min(total / count, 700.0))


def next_token_loss(outputs: Any, batch: Any) -> Tensor:
    """Sum up how badly a causal language model predicts the tokens of a batch: a loss for `measure`.

        sum over tokens t of -log p(x_t | those before x_t)

    Args:
        outputs: `.logits` of shape (batch, length, vocabulary), or these themselves.
        batch: token ids (batch, length), alone, first in a tuple, or as "input_ids" of a mapping.

    Returns:
        The loss, a scalar in float32 at least.

    Raises:
        TypeError: if there are no logits, or no integers among the batch.
        ValueError: if there are fewer than two tokens, or the logits are of others.

    >>> next_token_loss(torch.zeros(1, 3, 10), torch.tensor([[1, 2, 3]])).exp().round()
    tensor(100.)

    Reference: Bengio et al., "A Neural Probabilistic Language Model", 2003, equation 1.
    """
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    ids, logits = _ids(batch.get("input_ids") if isinstance(batch, Mapping) else first, "batch"), _logits(outputs)
    _refuse_others(ids, logits)
    wide = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(wide.flatten(0, 1), ids[:, 1:].flatten().to(wide.device), reduction="sum")


def _windows(value: Any) -> Iterable[Any]:
    if isinstance(value, Tensor):
        _read.is_dense(value, "", "windows")
    if not _read.iterates(value) or isinstance(value, (Mapping, str)):
        raise TypeError(
            f"`windows` must be an iterable of token ids, got {type(value).__name__}. For example ids.split(512)."
        )
    return value


_INTEGERS = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64}


def _ids(window: Any, argument: str = "windows") -> Tensor:
    """A window as (batch, length)."""
    if not isinstance(window, Tensor) or window.dtype not in _INTEGERS:
        kind = window.dtype if isinstance(window, Tensor) else type(window).__name__
        raise TypeError(f"`{argument}` must hold tensors of token ids, got {kind}. For example ids.split(512).")
    ids = window[None] if window.dim() == 1 else window
    if ids.dim() != 2 or ids.shape[1] < 2:
        raise ValueError(
            f"`{argument}` must be of at least two tokens, (length,) or (batch, length), got {window.shape}."
        )
    return ids.long()  # of torch, cross entropy takes no others


def _logits(output: Any) -> Tensor:
    logits = getattr(output, "logits", output)
    if isinstance(logits, Tensor):
        _read.is_dense(logits, "", "outputs")
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        raise TypeError(
            f"`model` must give logits of (batch, length, vocabulary), got {type(output).__name__}. "
            "For example a model of transformers' AutoModelForCausalLM."
        )
    return logits


def _loss(logits: Tensor, targets: Tensor) -> float:
    """The sum over the tokens, in float32 at least."""
    losses = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return float(losses.double().sum())


def _refuse_others(ids: Tensor, logits: Tensor, argument: str = "batch") -> None:
    """Refuse logits that are not of these tokens."""
    if logits.shape[:2] != ids.shape:
        raise ValueError(
            f"`outputs` must have logits of the tokens {tuple(ids.shape)} of `{argument}`, got {tuple(logits.shape)}. "
            "Pass what the model gives for this batch."
        )
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < logits.shape[2]:
        raise ValueError(
            f"`{argument}` must hold ids of the {logits.shape[2]} tokens that the model knows, got {int(ids.min())} to "
            f"{int(ids.max())}. Is the tokenizer the model's?"
        )
