"""The pruning methods: each says which entries, channels or tensors it works on, and asks the core who dies."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import masklib
from masklib import _read, compute_mask

from .._module.values import BadShape
from ._amounts import (
    _compute_norm,
    _validate_pruning_amount_init,
    a_source,
    along,
    channel_noise,
    noise_like,
    number_to_prune,
    validate_channels,
    within,
)
from ._base import BasePruningMethod
from ._record import Record, replay
from ._stay import (
    Step,
    all_stay,
    core_says,
    keyed_step,
    l1_step,
    largest_stay,
    masked_stay,
    normed_channels_stay,
    random_channels_stay,
    random_stay,
)
from ._step import knows


class Identity(BasePruningMethod):
    """Prune nothing: begin the pruned state with a mask of ones."""

    PRUNING_TYPE = "unstructured"

    @knows(masks=all_stay, step=lambda method: masklib.identity)
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Return a copy of `default_mask`."""
        return default_mask.clone()

    @classmethod
    def apply(cls, module: nn.Module, name: str, *, root: nn.Module | None = None) -> Any:  # type: ignore[override]
        """Prune nothing; see `identity`."""
        return super().apply(module, name, root=root)


class RandomUnstructured(BasePruningMethod):
    """Prune entries at random, drawing from torch's generator as torch.nn.utils.prune does.

    Args:
        amount: an int, how many of the live entries; or a float in [0, 1], which share of them.
        generator: what to draw from instead.
        key: a 64-bit int, of which the noise is made instead, the same on all ranks.
    """

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float, *, generator: torch.Generator | None = None, key: Any = None) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount
        self.key, self.generator = a_source(key, generator)

    @knows(reads=True, whole=random_stay, step=keyed_step(masklib.random_unstructured))
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Kill `amount` of all entries, those with the highest noise."""
        number = number_to_prune(self.amount, t.nelement())
        if number == 0:
            return default_mask.clone()
        noise = noise_like(t, self.generator)
        return within(default_mask, compute_mask(-noise, amount=number), default_mask.dtype)

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: nn.Module,
        name: str,
        amount: float,
        *,
        generator: torch.Generator | None = None,
        key: Any = None,
        root: nn.Module | None = None,
    ) -> Any:
        """Prune entries at random; see `random_unstructured`."""
        return super().apply(module, name, amount=amount, generator=generator, key=key, root=root)

    def recorded(self, record: Record) -> None:
        """Drop the generator: what it drew is on record, and copies of the module need not copy it."""
        self.generator = None


class L1Unstructured(BasePruningMethod):
    """Prune the entries of least magnitude.

    Args:
        amount: an int, how many of the live entries; or a float in [0, 1], which share of them.
    """

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount

    @knows(masks=largest_stay, step=l1_step)
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Kill `amount` of all entries, the lowest by magnitude, ties by index."""
        number = number_to_prune(self.amount, t.nelement())
        return within(default_mask, masklib.l1_unstructured(t, amount=number), default_mask.dtype)

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: nn.Module,
        name: str,
        amount: float,
        importance_scores: Tensor | None = None,
        *,
        root: nn.Module | None = None,
    ) -> Any:
        """Prune the entries of least magnitude; see `l1_unstructured`."""
        return super().apply(module, name, amount=amount, importance_scores=importance_scores, root=root)


class RandomStructured(BasePruningMethod):
    """Prune channels at random, drawing from torch's generator as torch.nn.utils.prune does.

    Args:
        amount: an int, how many of the live channels; or a float in [0, 1], which share of them.
        dim: the dim whose indices are the channels.
        generator: what to draw from instead.
        key: a 64-bit int, of which the noise is made instead, the same on all ranks.
    """

    PRUNING_TYPE = "structured"

    def __init__(
        self, amount: float, dim: int = -1, *, generator: torch.Generator | None = None, key: Any = None
    ) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount
        self.dim = dim
        self.key, self.generator = a_source(key, generator)

    @knows(reads=True, whole=random_channels_stay, step=keyed_step(masklib.random_structured, "dim"))
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Kill `amount` of all channels, those with the lowest noise."""
        validate_channels(t, self.dim)
        number = number_to_prune(self.amount, t.shape[self.dim])
        if number == 0:
            return default_mask.clone()
        kept = compute_mask(channel_noise(t.shape[self.dim], self.generator), amount=number)
        return within(default_mask, along(kept, t, self.dim), t.dtype)

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: nn.Module,
        name: str,
        amount: float,
        dim: int = -1,
        *,
        generator: torch.Generator | None = None,
        key: Any = None,
        root: nn.Module | None = None,
    ) -> Any:
        """Prune channels at random; see `random_structured`."""
        return super().apply(module, name, amount=amount, dim=dim, generator=generator, key=key, root=root)

    def recorded(self, record: Record) -> None:
        """Drop the generator: what it drew is on record, and copies of the module need not copy it."""
        self.generator = None


class LnStructured(BasePruningMethod):
    """Prune the channels of least Ln norm.

    Args:
        amount: an int, how many of the live channels; or a float in [0, 1], which share of them.
        n: the order of the norm: a number, inf, -inf, "fro" or "nuc".
        dim: the dim whose indices are the channels.
    """

    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, n: Any, dim: int = -1) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount
        self.n = n
        self.dim = dim

    @knows(reads=True, whole=normed_channels_stay, step=lambda method: partial(replay, method))
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Kill `amount` of all channels, the lowest by norm, ties by index."""
        validate_channels(t, self.dim)
        number = number_to_prune(self.amount, t.shape[self.dim])
        kept = compute_mask(_compute_norm(t, self.n, self.dim), amount=number)
        return within(default_mask, along(kept, t, self.dim), t.dtype)

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: nn.Module,
        name: str,
        amount: float,
        n: Any,
        dim: int,
        importance_scores: Tensor | None = None,
        *,
        root: nn.Module | None = None,
    ) -> Any:
        """Prune the channels of least norm; see `ln_structured`."""
        return super().apply(module, name, amount=amount, n=n, dim=dim, importance_scores=importance_scores, root=root)


class CustomFromMask(BasePruningMethod):
    """Prune by a given mask.

    Args:
        mask: 0/1 (or bool) mask of the tensor's shape. Once applied, only what it removed is kept on record.
    """

    PRUNING_TYPE = "global"

    def __init__(self, mask: Tensor) -> None:
        if not isinstance(mask, Tensor):
            raise TypeError(f"`mask` must be a torch.Tensor, got {type(mask).__name__}. Pass torch.tensor(mask), say.")
        self.mask = mask

    @property
    def mask(self) -> Tensor:
        """The given mask; once it was applied, who was alive then, as bool."""
        return self._record.survivors(self._index) if self._mask is None else self._mask

    @mask.setter
    def mask(self, mask: Tensor) -> None:
        self._mask: Tensor | None = mask

    @knows(masks=masked_stay)
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Return `default_mask` times the mask."""
        if default_mask.shape != self.mask.shape:
            raise BadShape(
                f"`mask` must have the shape of the tensor, {tuple(default_mask.shape)}, got {tuple(self.mask.shape)}."
            )
        return default_mask * self.mask.to(default_mask)

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: nn.Module, name: str, mask: Tensor, *, root: nn.Module | None = None
    ) -> Any:
        """Prune by a mask; see `custom_from_mask`."""
        return super().apply(module, name, mask=mask, root=root)

    def recorded(self, record: Record) -> None:
        """Drop the mask: the record has what it removed."""
        self._record, self._index, self._mask = record, len(record.numbers) - 1, None


class CoreMethod(BasePruningMethod):
    """Prune by any method of the core, `(scores, default_mask) -> mask`; `apply` of this package makes it.

    Args:
        method: such as `partial(masklib.n_of_m, keep=2, of=4)`.
    """

    PRUNING_TYPE = "global"

    def __init__(self, method: Step) -> None:
        _read.function(method, "method", "partial(masklib.l1_unstructured, amount=0.5)")
        self.method = method

    @knows(masks=core_says, step=lambda method: method.method)
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Return the method's mask, in the dtype of `default_mask`."""
        return self.method(t, default_mask != 0).to(default_mask.dtype)
