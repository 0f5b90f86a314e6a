"""The pruning methods: each says which entries, channels or tensors it works on, and asks the core who dies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import masklib
from masklib import compute_mask

from . import _site
from ._amounts import (
    _compute_norm,
    _validate_pruning_amount_init,
    along,
    noise_device,
    noise_dtype,
    number_to_prune,
    validate_channels,
    within,
)
from ._base import BasePruningMethod
from ._record import Record, replay

Step = Callable[..., Tensor]


class Identity(BasePruningMethod):
    """Prune nothing: begin the pruned state with a mask of ones."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Return a copy of `default_mask`."""
        return default_mask.clone()

    def _step(self) -> Step:
        """The same as a step of the core."""
        return masklib.identity

    @classmethod
    def apply(cls, module: nn.Module, name: str, *, root: nn.Module | None = None) -> Any:  # type: ignore[override]
        """Prune nothing; see `identity`."""
        return super().apply(module, name, root=root)


class RandomUnstructured(BasePruningMethod):
    """Prune entries at random, drawing from torch's generator as torch.nn.utils.prune does.

    Args:
        amount: an int, how many of the live entries; or a float in [0, 1], which share of them.
    """

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Kill `amount` of all entries, those with the highest noise."""
        number = number_to_prune(self.amount, t.nelement())
        if number == 0:
            return default_mask.clone()
        noise = torch.rand_like(t, dtype=noise_dtype(t.dtype))
        return within(default_mask, compute_mask(-noise, amount=number), default_mask.dtype)

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: nn.Module, name: str, amount: float, *, root: nn.Module | None = None
    ) -> Any:
        """Prune entries at random; see `random_unstructured`."""
        return super().apply(module, name, amount=amount, root=root)


class L1Unstructured(BasePruningMethod):
    """Prune the entries of least magnitude.

    Args:
        amount: an int, how many of the live entries; or a float in [0, 1], which share of them.
    """

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Kill `amount` of all entries, the lowest by magnitude, ties by index."""
        number = number_to_prune(self.amount, t.nelement())
        return within(default_mask, masklib.l1_unstructured(t, amount=number), default_mask.dtype)

    def _step(self) -> Step:
        """The same as a step of the core."""
        plain = type(self.amount) in (int, float)
        return partial(masklib.l1_unstructured, amount=self.amount) if plain else partial(replay, self)

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
    """

    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, dim: int = -1) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount
        self.dim = dim

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Kill `amount` of all channels, those with the lowest noise."""
        validate_channels(t, self.dim)
        number = number_to_prune(self.amount, t.shape[self.dim])
        if number == 0:
            return default_mask.clone()
        dtype, device = noise_dtype(torch.get_default_dtype()), noise_device()
        noise = torch.rand(t.shape[self.dim], dtype=dtype, device=device)
        kept = compute_mask(noise, amount=number)
        return within(default_mask, along(kept, t, self.dim), t.dtype)

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: nn.Module, name: str, amount: float, dim: int = -1, *, root: nn.Module | None = None
    ) -> Any:
        """Prune channels at random; see `random_structured`."""
        return super().apply(module, name, amount=amount, dim=dim, root=root)


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

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Kill `amount` of all channels, the lowest by norm, ties by index."""
        validate_channels(t, self.dim)
        number = number_to_prune(self.amount, t.shape[self.dim])
        kept = compute_mask(_compute_norm(t, self.n, self.dim), amount=number)
        return within(default_mask, along(kept, t, self.dim), t.dtype)

    def _step(self) -> Step:
        """The same as a step of the core."""
        return partial(replay, self)

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

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Return `default_mask` times the mask."""
        if default_mask.shape != self.mask.shape:
            raise _site.BadShape(
                f"`mask` must have the shape of the tensor, {tuple(default_mask.shape)}, got {tuple(self.mask.shape)}."
            )
        return default_mask * self.mask.to(default_mask)

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: nn.Module, name: str, mask: Tensor, *, root: nn.Module | None = None
    ) -> Any:
        """Prune by a mask; see `custom_from_mask`."""
        return super().apply(module, name, mask=mask, root=root)

    def _recorded(self, record: Record) -> None:
        self._record, self._index, self._mask = record, len(record.numbers) - 1, None


DETERMINED = (Identity, L1Unstructured, LnStructured)  # by the weights alone
METHODS = (*DETERMINED, RandomUnstructured, RandomStructured, CustomFromMask)
_AS_BUILT: dict[type, Any] = {kind: kind.compute_mask for kind in METHODS}


def as_built(method: BasePruningMethod) -> bool:
    """Whether a method is one of ours, and nobody has replaced what it computes."""
    return _AS_BUILT.get(type(method)) is type(method).compute_mask
