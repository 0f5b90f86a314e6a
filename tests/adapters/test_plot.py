"""Pictures: what is drawn is what was given, in the numbers of the artists and in the pixels that Agg renders."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from wrong import told

import masklib as ml
from masklib.adapters import plot
from masklib.adapters.report import report


@pytest.fixture(autouse=True)
def figures():
    """Agg, matplotlib's own style but for flat edges, and no figure left open."""
    plt.switch_backend("agg")
    with mpl.rc_context({**mpl.rcParamsDefault, "backend": "agg", "lines.antialiased": False, "figure.dpi": 100}):
        yield
    plt.close("all")


def axes(**style):
    """Axes that fill a figure of 200 by 200 pixels."""
    return plt.figure(figsize=(2, 2), **style).add_axes((0, 0, 1, 1))


def where(ax, colour, off=0.02):
    """Which pixels of the axes have a colour, and the data coordinates of the middle of each."""
    ax.set_axis_on()
    if ax.get_legend():
        ax.get_legend().remove()
    ax.figure.canvas.draw()
    image = np.asarray(ax.figure.canvas.buffer_rgba())[..., :3] / 255
    rows, columns = np.nonzero(np.abs(image - to_rgb(colour)).max(-1) <= off)
    return ax.transData.inverted().transform(np.stack([columns + 0.5, len(image) - rows - 0.5], 1))


# ---- masks ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(0, 3))
def test_each_pixel_is_the_mean_of_its_tile(rows, columns, pixels, seed):
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.4
    ax = plot.mask(mask, pixels=pixels, ax=mpl.figure.Figure().add_subplot())
    shown, (left, right, bottom, top) = ax.images[0].get_array(), ax.images[0].get_extent()
    assert max(shown.shape) <= pixels
    high, wide = (bottom - top) / shown.shape[0], (right - left) / shown.shape[1]
    for i, j in np.ndindex(*shown.shape):
        tile = mask[int(i * high) : int((i + 1) * high), int(j * wide) : int((j + 1) * wide)]
        assert shown[i, j] == pytest.approx(float(tile.double().mean()))
    assert ax.get_xlim() == (0, columns)
    assert ax.get_ylim() == (rows, 0)


def test_small_masks_are_drawn_entry_by_entry():
    mask = torch.eye(3).bool()
    assert plot.mask(mask, ax=axes()).images[0].get_array().tolist() == mask.double().tolist()
    assert plot.mask(mask[0], ax=axes()).images[0].get_array().shape == (1, 3)
    assert plot.mask(torch.ones(2, 3, 4).bool(), ax=axes()).images[0].get_array().shape == (2, 12)


def test_the_pixels_of_a_mask_are_those_of_its_entries():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, :2] = True
    points = where(plot.mask(mask, ax=axes()), "C0")
    assert len(points) == pytest.approx(200 * 200 / 8, rel=0.1)  # the frame covers some
    assert points[:, 0].max() <= 2
    assert points[:, 1].max() <= 1


def test_a_large_mask_is_as_dark_as_it_is_dense():
    mask = torch.rand(1000, 3000, generator=torch.Generator().manual_seed(0)) < 0.25
    ax = plot.mask(mask, pixels=100, ax=axes())
    ax.set_axis_off()
    ax.figure.canvas.draw()
    image = np.asarray(ax.figure.canvas.buffer_rgba())[..., 0].mean() / 255
    assert image == pytest.approx(1 - 0.25 * (1 - to_rgb("C0")[0]), abs=0.01)


# ---- the others -----------------------------------------------------------------------------------------------------

MASKS = {"a": torch.arange(10).view(2, 5) < 3, "b": torch.arange(10) < 8}


def test_bars_are_as_long_as_layers_are_sparse():
    ax = plot.sparsity(MASKS, ax=axes())
    assert [float(bar.get_width()) for bar in ax.patches] == [0.7, 0.2]
    assert ax.lines[0].get_xdata()[0] == 0.45
    points = where(ax, "C0")
    ends = [points[np.abs(points[:, 1] - i) < 0.3, 0].max() for i in range(2)]
    assert ends == pytest.approx([0.7, 0.2], abs=0.02)
    assert plot.sparsity(report(MASKS), ax=axes()).patches[0].get_width() == pytest.approx(0.7)


def test_overlaps_are_those_of_the_core():
    masks = ml.scan([lambda s, m: ml.l1_unstructured(s, m, amount=0.5)] * 3, torch.arange(1.0, 17))
    ax = plot.overlap(masks, steps=[0, 10, 20, 30], ax=axes())
    drawn = {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    assert drawn == {
        "the first": [1, 0.5, 0.25, 0.125],
        "the one before": [1, 0.5, 0.5, 0.5],
        "the last": [0.125, 0.25, 0.5, 1],
    }
    points = where(ax, "C2")
    assert points[np.abs(points[:, 0] - 15) < 0.3, 1] == pytest.approx(0.375, abs=0.03)


def test_a_training_has_one_scale_for_both():
    ax = plot.training([0, 5, 10], [0.0, 0.4, 0.8], [0.9, 0.95, 0.85], ax=axes())
    assert ax.lines[0].get_ydata().tolist() == [0.9, 0.95, 0.85]
    points = where(ax, "C1")
    assert points[np.abs(points[:, 0] - 7.5) < 0.1, 1] == pytest.approx(0.9, abs=0.02)
    light = np.array(to_rgb("C0")) * 0.25 + 0.75
    points = where(ax, light)
    assert points[np.abs(points[:, 0] - 7.5) < 0.1, 1].max() == pytest.approx(0.4, abs=0.02)


def test_a_schedule_is_a_staircase_with_its_updates():
    shape = ml.schedules.cubic(0.8, stop=20, every=5)
    ax = plot.schedule(shape, steps=30, ax=axes())
    (line,) = ax.lines
    assert line.get_ydata().tolist() == [shape(step) for step in range(30)]
    assert line.get_markevery() == [step for step in range(30) if shape.due(step)] == [0, 5, 10, 15, 20]
    assert line.get_label() == repr(shape)
    points = where(ax, "C0")
    assert points[np.abs(points[:, 0] - 12.5) < 0.2, 1] == pytest.approx(shape(12), abs=0.02)
    assert len(plot.schedule(lambda step: 0.5, steps=3, label="flat", ax=ax).lines) == 2


def test_a_histogram_counts_who_dies_and_who_stays():
    scores = torch.arange(1.0, 101)
    mask = ml.compute_mask(scores, amount=0.25)
    ax = plot.scores({"w": scores}, {"w": mask}, bins=10, ax=axes())
    assert sum(bar.get_height() for bar in ax.patches[:10]) == 25
    assert sum(bar.get_height() for bar in ax.patches[10:]) == 75
    assert ax.lines[0].get_xdata()[0] == 26
    dies, stays = (len(where(ax, colour)) for colour in ("C1", "C0"))
    assert dies / (dies + stays) == pytest.approx(0.25, abs=0.02)


CALLS = {
    "sparsity": lambda **ax: plot.sparsity(MASKS, **ax),
    "mask": lambda **ax: plot.mask(MASKS["a"], **ax),
    "overlap": lambda **ax: plot.overlap([MASKS, MASKS], **ax),
    "training": lambda **ax: plot.training([0, 1], [0.0, 0.5], [0.9, 0.9], **ax),
    "schedule": lambda **ax: plot.schedule(ml.schedules.linear(0.5, stop=3), steps=5, **ax),
    "scores": lambda **ax: plot.scores(torch.arange(9.0), torch.arange(9) > 3, **ax),
}


@pytest.mark.parametrize("name", dir(plot))
def test_axes_are_those_given_or_the_current_ones_in_the_users_style(name):
    mine = axes()
    assert CALLS[name](ax=mine) is mine
    with mpl.rc_context({"axes.prop_cycle": mpl.cycler(color=["#ff0000", "#00ff00", "#0000ff"])}):
        current = axes()
        assert CALLS[name]() is current
        points = [len(where(current, colour, 0.3)) for colour in ("#ff0000", "#00ff00", "#0000ff")]
        assert sum(points) > 100
        assert len(where(current, "tab:blue")) == 0
    assert len(plt.get_fignums()) == 2


BAD = [
    (TypeError, "`ax` must be axes of matplotlib, got Figure", lambda: plot.mask(MASKS["a"], ax=plt.figure())),
    (TypeError, "`mask` must be a torch.Tensor", lambda: plot.mask([1, 0])),
    (ValueError, "`mask` must have entries, got shape (0, 3)", lambda: plot.mask(torch.ones(0, 3))),
    (ValueError, "`pixels` must be between 1 and 1,000,000, got 0", lambda: plot.mask(MASKS["a"], pixels=0)),
    (TypeError, "`pixels` must be an int", lambda: plot.mask(MASKS["a"], pixels=1.5)),
    (TypeError, "`history` must be a sequence, got dict", lambda: plot.overlap(MASKS)),
    (ValueError, "`history` must have an entry at least", lambda: plot.overlap([])),
    (
        ValueError,
        "`steps` must have as many entries as the rest, 2, got 1",
        lambda: plot.overlap([MASKS] * 2, steps=[3]),
    ),
    (TypeError, "must be bool", lambda: plot.overlap([torch.ones(2)])),
    (ValueError, "`accuracy` must have as many entries", lambda: plot.training([0, 1], [0, 1], [0])),
    (TypeError, "`sparsity` must hold numbers", lambda: plot.training([0], [None], [0])),
    (TypeError, "`schedule` must be", lambda: plot.schedule(0.5, steps=3)),
    (ValueError, "`steps` must be between 1 and 1,000,000, got 0", lambda: plot.schedule(lambda step: 0, steps=0)),
    (
        ValueError,
        "`scores` must hold finite numbers",
        lambda: plot.scores(torch.tensor([torch.inf]), MASKS["a"][0, :1]),
    ),
    (TypeError, "must be bool", lambda: plot.scores(torch.ones(2), torch.ones(2))),
    (TypeError, "`pruned` must be a module", lambda: plot.sparsity("file")),
]


@pytest.mark.parametrize(("kind", "message", "call"), BAD, ids=[message for _, message, _ in BAD])
def test_bad_calls_are_told_and_draw_nothing(kind, message, call):
    current = axes()
    with pytest.raises(kind) as told:
        call()
    assert message in str(told.value)
    assert not [*current.lines, *current.patches, *current.images]


ARGUMENTS = {
    plot.sparsity: lambda: {"pruned": MASKS},
    plot.mask: lambda: {"mask": MASKS["a"], "pixels": 4, "ax": None},
    plot.overlap: lambda: {"history": [MASKS, MASKS], "steps": [0, 1]},
    plot.training: lambda: {"steps": [0, 1], "sparsity": [0.0, 0.5], "accuracy": [0.9, 0.9]},
    plot.schedule: lambda: {"schedule": ml.schedules.linear(0.5, stop=3), "steps": 4},
    plot.scores: lambda: {"scores": torch.arange(4.0), "masks": torch.arange(4) > 1, "bins": 4},
}


@pytest.mark.filterwarnings("ignore")  # of matplotlib, and of tensors that hold something odd
@pytest.mark.parametrize("function", ARGUMENTS, ids=lambda function: function.__name__)
def test_wrong_things_are_told_in_our_words(function):
    assert told(function, ARGUMENTS[function]) == ""
