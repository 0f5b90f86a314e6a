"""What is given to a picture, read, and made ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from masklib import _read

from .._module.values import check_values

MOST = 1_000_000  # of what is drawn one by one


def axes(ax: Any) -> Axes:
    """The axes to draw into: those given, or the current ones."""
    if ax is None:
        return plt.gca()
    if not isinstance(ax, Axes):
        raise TypeError(f"`ax` must be axes of matplotlib, got {type(ax).__name__}. For example ax=plt.gca().")
    return ax


def count(value: Any, argument: str, example: str) -> int:
    """A number of what is drawn one by one."""
    count = _read.integer(value, argument, example)
    if not 1 <= count <= MOST:
        raise ValueError(f"`{argument}` must be between 1 and {MOST:,}, got {count}. For example {example}.")
    return count


def has_values(name: str, tensor: Tensor, argument: str) -> None:
    """Refuse what cannot be drawn."""
    _read.is_whole(tensor, _read.place(name, argument))
    check_values(tensor, _read.place(name, argument))


def ink(ax: Axes) -> LinearSegmentedColormap:
    """From the background to the first colour of the style."""
    return LinearSegmentedColormap.from_list("masklib", [ax.get_facecolor(), "C0"])


def matrix(mask: Any) -> np.ndarray[Any, Any]:
    """A mask as numbers, its dims but the first flattened."""
    _read.is_dense(mask, "", "mask")
    has_values("", mask, "mask")
    if not mask.numel():
        raise ValueError(f"`mask` must have entries, got shape {tuple(mask.shape)}.")
    rows = mask.shape[0] if mask.dim() > 1 else 1
    return mask.detach().cpu().float().reshape(rows, -1).numpy()


def tiled(values: np.ndarray[Any, Any], side: int) -> tuple[np.ndarray[Any, Any], tuple[int, int]]:
    """The mean of each tile, and how high and wide tiles are; those at the end may be smaller."""
    high, wide = (-(-length // side) for length in values.shape)
    tops, lefts = np.arange(0, values.shape[0], high), np.arange(0, values.shape[1], wide)
    sums = np.add.reduceat(np.add.reduceat(values, tops, 0, dtype=np.float64), lefts, 1)
    heights, widths = (np.diff([*starts, n]) for starts, n in zip((tops, lefts), values.shape))
    return sums / np.outer(heights, widths), (high, wide)


def listed(value: Any, argument: str) -> list[Any]:
    """A sequence that is not empty."""
    if isinstance(value, (str, Tensor, Mapping)) or not _read.iterates(value):
        raise TypeError(f"`{argument}` must be a sequence, got {type(value).__name__}. For example a list.")
    found = list(value)
    if not found:
        raise ValueError(f"`{argument}` must have an entry at least, got none.")
    return found


def steps(steps: Any, like: Sequence[Any]) -> np.ndarray[Any, Any]:
    """When each came about, in the order given if nobody says."""
    return np.arange(len(like)) if steps is None else numbers(steps, "steps", like)


def numbers(values: Any, argument: str, like: Any) -> np.ndarray[Any, Any]:
    """Numbers, as many as the rest."""
    entries = listed(values, argument)
    try:
        found = np.asarray([float(value) for value in entries])
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"`{argument}` must hold numbers, got {values!r}. For example [0.0, 0.5, 0.9].") from None
    if len(found) != len(like):
        raise ValueError(f"`{argument}` must have as many entries as the rest, {len(like)}, got {len(found)}.")
    return found
