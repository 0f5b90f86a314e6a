"""The pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from torch import Tensor

import masklib as ml
from masklib import _read

from ..report import Report, report
from . import _given as given


def sparsity(pruned: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the dead share of each layer as a bar, and that of all layers as a line.

    Args:
        pruned: whatever `report` takes, such as masks by name or a pruned model; or a report.
        ax: where to draw.

    Returns:
        The axes; one bar a layer, the first layer on top.

    Raises:
        TypeError, ValueError: as `report`.

    >>> ax = sparsity({"w": torch.tensor([True, False])}, ax=plt.figure().gca())
    >>> [float(bar.get_width()) for bar in ax.patches]
    [0.5]
    """
    found = pruned if isinstance(pruned, Report) else report(pruned)
    ax = given.axes(ax)
    names, shares = list(found.layers), [layer.sparsity for layer in found.layers.values()]
    ax.barh(names, shares)
    ax.axvline(found.sparsity, color="C1", linestyle="--", label=f"all layers: {found.sparsity:.1%}")
    ax.invert_yaxis()
    ax.set(xlabel="sparsity", xlim=(0, 1))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.legend()
    return ax


def mask(mask: Tensor, *, pixels: int = 256, ax: Axes | None = None) -> Axes:
    """Draw a mask as an image: what lives in the first colour of the style, what is dead in that of the background.

    A side longer than `pixels` is cut into tiles, and each pixel is the mean of its tile: the share of it that lives.

    Args:
        mask: bool, or shares in [0, 1]; of more than two dims, all but the first are flattened, one dim is a row.
        pixels: how many pixels a side has at most.
        ax: where to draw.

    Returns:
        The axes, in units of the mask's entries.

    Raises:
        TypeError: if the mask is not a tensor, or `pixels` not an int.
        ValueError: if the mask is empty, or `pixels` not positive.

    >>> ax = mask(torch.tensor([[True, True, False, False]]), pixels=2, ax=plt.figure().gca())
    >>> ax.images[0].get_array().tolist()
    [[1.0, 0.0]]
    """
    values = given.matrix(mask)
    side = given.count(pixels, "pixels", "pixels=256")
    tiles, (high, wide) = given.tiled(values, side)
    ax, (rows, columns) = given.axes(ax), values.shape
    edges = 0, tiles.shape[1] * wide, tiles.shape[0] * high, 0
    ax.imshow(tiles, cmap=given.ink(ax), vmin=0, vmax=1, extent=edges, aspect="auto")
    ax.set(xlim=(0, columns), ylim=(rows, 0))  # the last tiles may reach over the edge
    return ax


def overlap(history: Sequence[Any], *, steps: Sequence[float] | None = None, ax: Axes | None = None) -> Axes:
    """Draw how much the masks of a history agree: each with the first, with the one before, and with the last.

    Args:
        history: masks, tensors or mappings by name, in order, such as those of `scan`.
        steps: when each came about; 0, 1, 2, ... if None.
        ax: where to draw.

    Returns:
        The axes; three lines of Jaccard indices.

    Raises:
        TypeError: if a mask is not bool.
        ValueError: if there are none, they do not go together, or there are other numbers of steps.

    >>> ax = overlap([torch.tensor([True, True]), torch.tensor([True, False])], ax=plt.figure().gca())
    >>> ax.lines[0].get_ydata().tolist()
    [1.0, 0.5]
    """
    masks, ax = given.listed(history, "history"), given.axes(ax)
    at, count = given.steps(steps, masks), len(masks)
    others = {"the first": masks[:1] * count, "the one before": masks[:1] + masks[:-1], "the last": masks[-1:] * count}
    lines = {label: [float(ml.overlap(a, b)) for a, b in zip(masks, against)] for label, against in others.items()}
    for label, line in lines.items():
        ax.plot(at, line, label=label)
    ax.set(xlabel="step", ylabel="overlap (Jaccard)", ylim=(0, 1.03))
    ax.legend(title="with")
    return ax


def training(
    steps: Sequence[float], sparsity: Sequence[float], accuracy: Sequence[float], *, ax: Axes | None = None
) -> Axes:
    """Draw accuracy over steps, above the dead share as an area: both are shares, and have one scale.

    Args:
        steps: when each was measured.
        sparsity: the dead shares, in [0, 1].
        accuracy: in [0, 1].
        ax: where to draw.

    Returns:
        The axes; the area, and a line.

    Raises:
        TypeError: if one is no sequence of numbers.
        ValueError: if their lengths differ, or they are empty.

    >>> training([0, 1], [0.0, 0.9], [0.97, 0.95], ax=plt.figure().gca()).lines[0].get_ydata().tolist()
    [0.97, 0.95]
    """
    at = given.numbers(steps, "steps", given.listed(steps, "steps"))
    dead, right = (given.numbers(v, n, at) for v, n in ((sparsity, "sparsity"), (accuracy, "accuracy")))
    ax = given.axes(ax)
    ax.fill_between(at, dead, step="post", color="C0", alpha=0.25, label="sparsity")
    ax.plot(at, right, color="C1", label="accuracy")
    ax.set(xlabel="step", ylim=(0, 1))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.legend()
    return ax


def schedule(schedule: Any, *, steps: int, label: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw what a schedule says at each step, with a dot where an update is due.

    Args:
        schedule: of `masklib.schedules`, or any function of a step.
        steps: how many steps to draw.
        label: for a legend; how the schedule prints if None.
        ax: where to draw; another schedule is another line.

    Returns:
        The axes; a line that is a staircase, with dots.

    Raises:
        TypeError: if the schedule is no function, or `steps` no int.
        ValueError: if `steps` is not positive.

    >>> schedule(ml.schedules.linear(0.5, stop=2), steps=4, ax=plt.figure().gca()).lines[0].get_ydata().tolist()
    [0.0, 0.25, 0.5, 0.5]
    """
    _read.function(schedule, "schedule", "schedules.cubic(0.9, stop=100)")
    number = given.count(steps, "steps", "steps=100")
    values = [float(schedule(step)) for step in range(number)]
    due = getattr(schedule, "due", None)
    dots = [step for step in range(number) if due is not None and bool(due(step))]
    ax = given.axes(ax)
    ax.plot(
        range(number), values, drawstyle="steps-post", marker="o", markevery=dots, markersize=3,
        label=repr(schedule) if label is None else label,
    )  # fmt: skip
    ax.set(xlabel="step", ylabel="sparsity")
    return ax


def scores(scores: Any, masks: Any, *, bins: int = 100, ax: Axes | None = None) -> Axes:
    """Draw the histogram of what dies and what stays, and a line at the cut: the lowest score that stays.

    Args:
        scores: a tensor or a mapping by name, one pool.
        masks: bool, of the same shapes and names.
        bins: how many bars.
        ax: where to draw.

    Returns:
        The axes; two histograms one on top of the other, and a line if anything stays. Where scores compete in several
        pools, what dies may reach beyond the line.

    Raises:
        TypeError: if the masks are not bool, or the scores cannot be drawn.
        ValueError: if names or shapes disagree, there are no scores, or some of them are not finite.

    >>> ax = scores(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([False, True, True]), ax=plt.figure().gca())
    >>> float(ax.lines[0].get_xdata()[0])
    2.0
    """
    entries = _read.tensors(scores, "scores")
    kept = _read.masks(masks, scores, "masks")
    for name, tensor in entries.items():
        given.has_values(name, tensor, "scores")
    nothing = torch.zeros(0, device="cpu")
    alive = torch.cat([m.detach().flatten().cpu() for m in kept.values()]) if kept else nothing.bool()
    values = torch.cat([t.detach().flatten().cpu().double() for t in entries.values()]) if entries else nothing
    if not values.numel() or not bool(values.isfinite().all()):
        raise ValueError("`scores` must hold finite numbers, one at least. Leave out what is infinite or NaN.")
    number, ax = given.count(bins, "bins", "bins=100"), given.axes(ax)
    parts = [values[~alive].numpy(), values[alive].numpy()]
    ax.hist(parts, bins=number, stacked=True, label=["dies", "stays"], color=["C1", "C0"])
    if len(parts[1]):
        ax.axvline(parts[1].min(), color=plt.rcParams["text.color"], linestyle="--", label="the cut")
    ax.set(xlabel="score", ylabel="entries")
    ax.legend()
    return ax
