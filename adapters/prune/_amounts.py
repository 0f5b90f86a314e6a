"""The small helpers that people import from torch.nn.utils.prune: amounts, channels, norms."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed

from masklib import _read
from masklib._shards._wire import Wire
from masklib.masking import where_kept


def _validate_pruning_amount_init(amount: Any) -> None:
    """Refuse an amount that is not a fraction in [0, 1] or a non-negative int."""
    if (type(amount) is float and 0 <= amount <= 1) or (type(amount) is int and amount >= 0):
        return  # numbers.Real is slow to ask
    if type(amount) is bool or not isinstance(amount, numbers.Real):
        raise TypeError(
            f"`amount` must be an int or a float in [0, 1], got {amount!r} ({type(amount).__name__}). "
            "For example amount=0.2."
        )
    integral = isinstance(amount, numbers.Integral)
    if (integral and amount < 0) or not (integral or 0.0 <= float(amount) <= 1.0):
        raise ValueError(f"`amount` must be an int of at least 0 or a float in [0, 1], got {amount}. For example 0.2.")


def _validate_pruning_amount(amount: Any, tensor_size: int) -> None:
    """Refuse an int amount above the number of units."""
    if isinstance(amount, numbers.Integral) and amount > tensor_size:  # type: ignore[operator]
        raise ValueError(
            f"`amount` must be between 0 and {tensor_size} (what is alive), got {amount}. "
            "For a share of it, pass amount=0.2."
        )


def _validate_structured_pruning(t: Tensor) -> None:
    """Refuse tensors without channels."""
    if t.dim() <= 1:
        raise ValueError(
            f"structured pruning needs a multidimensional tensor, got shape {tuple(t.shape)}. "
            "Prune it by entries, for example with l1_unstructured."
        )


def _compute_nparams_toprune(amount: Any, tensor_size: int) -> Any:
    """Turn an amount into a number of units: an int as it is, a float as round(amount * tensor_size)."""
    return amount if isinstance(amount, numbers.Integral) else round(amount * tensor_size)


def _validate_pruning_dim(t: Tensor, dim: int) -> None:
    """Refuse a dim that the tensor does not have."""
    _read.dimension(_read.integer(dim, "dim", "dim=0"), t, "the tensor")


def _compute_norm(t: Tensor, n: Any, dim: int) -> Tensor:
    """Compute the norm of each slice along `dim`, in at least float32.

    "fro" is the 2-norm; "nuc" sees a slice as a matrix of its first dim by the others (a vector as one column).
    """
    _validate_pruning_dim(t, dim)
    if not isinstance(n, (numbers.Real, str, type(None))):
        raise TypeError(f"`n` must be a number, inf, -inf, 'fro' or 'nuc', got {type(n).__name__}. For example n=2.")
    wide = t.to(torch.promote_types(t.dtype, torch.float32))
    slices = wide.movedim(dim, 0)
    if n == "nuc" and t.dim() > 2:
        return torch.linalg.matrix_norm(slices.flatten(2), ord="nuc")
    flat = slices.flatten(1) if t.dim() > 1 else slices[:, None]
    order = 2 if n in (None, "fro", "nuc") else n
    if not isinstance(order, numbers.Real):
        raise TypeError(f"`n` must be a number, inf, -inf, 'fro' or 'nuc', got {n!r}. For example n=2.")
    power = _read.order(int(order), "n") if isinstance(order, numbers.Integral) else float(order)
    return torch.linalg.vector_norm(flat, power, dim=1)


def number_to_prune(amount: Any, size: int) -> int:
    """The number of units, checked against how many there are."""
    if type(amount) is float:
        return round(amount * size)  # numbers.Integral is slow to ask
    number = int(_compute_nparams_toprune(amount, size))
    _validate_pruning_amount(number, size)
    return number


# ---- noise ----------------------------------------------------------------------------------------------------------


def noise_like(t: Tensor, generator: torch.Generator | None) -> Tensor:
    """Noise for each entry, as torch.nn.utils.prune draws it, or from a generator of any device."""
    dtype = _noise_dtype(t.dtype)
    if generator is None:
        _refuse_own_draws()
        return torch.rand_like(t, dtype=dtype)
    return torch.rand(t.shape, dtype=dtype, device=generator.device, generator=generator).to(t.device)


def channel_noise(size: int, generator: torch.Generator | None) -> Tensor:
    """Noise for each channel, drawn on the default device if values live there, or from a generator."""
    if generator is None:
        _refuse_own_draws()
    default = "cpu" if torch.empty(0).is_meta else None  # torch 2.6 forgets `with torch.device` when it is asked
    device = default if generator is None else generator.device
    return torch.rand(size, dtype=_noise_dtype(torch.get_default_dtype()), device=device, generator=generator)


def _refuse_own_draws() -> None:
    """Refuse that each of several ranks draws from a generator of its own: their masks would differ."""
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise ValueError(
            "`key` or `generator` must be given on several ranks, whose own generators would draw different masks, got "
            "neither. Pass key=0; or generator=torch.default_generator, if all ranks are seeded alike."
        )


def drawn_key(key: Any, generator: torch.Generator | None, tensors: Iterable[Any]) -> int | Tensor:
    """The key that is given; else one that is drawn on each rank of a sharded tensor, of which the first is taken."""
    if key is not None:
        return key
    device = "cpu" if generator is None else generator.device
    drawn = int(torch.randint(2**63 - 1, (), dtype=torch.int64, device=device, generator=generator))
    mesh = next(t.device_mesh for t in tensors if _read.is_sharded(t))
    return int(Wire(mesh).rows(lambda: [drawn], 1)[0, 0])


def a_source(key: Any, generator: Any) -> tuple[Any, torch.Generator | None]:
    """Read what noise is made of: a key or a generator, not both."""
    if key is not None and generator is not None:
        raise ValueError("`key` and `generator` must not be given both. Pass one of them, for example key=0.")
    if key is not None:
        _read.key(key)
    return key, a_generator(generator)


def _noise_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype itself if it is real and fine enough that noise hardly ties, else float32."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def a_generator(generator: torch.Generator | None) -> torch.Generator | None:
    """Read what to draw from."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"`generator` must be a torch.Generator, got {generator!r}. For example torch.Generator().manual_seed(0)."
        )
    return generator


# ---- channels -------------------------------------------------------------------------------------------------------


def validate_channels(t: Tensor, dim: int) -> None:
    """Refuse tensors without the channels."""
    _validate_structured_pruning(t)
    _validate_pruning_dim(t, dim)


def along(kept: Tensor, t: Tensor, dim: int) -> Tensor:
    """The mask of a tensor from that of its channels."""
    shape = [1] * t.dim()
    shape[dim] = -1
    return kept.to(t.device).view(shape).expand(t.shape)


def within(default_mask: Tensor, kept: Tensor, dtype: torch.dtype) -> Tensor:
    """`default_mask` where kept, in a dtype."""
    return where_kept(kept, default_mask.to(dtype))
