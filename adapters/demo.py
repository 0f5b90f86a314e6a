"""Prune a small conv net on real handwritten digits, round by round, and draw what happened.

Global magnitude pruning on a cubic schedule; masks are kept while fine-tuning because the model only ever sees
`masklib.apply(params, masks)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.func import functional_call

import masklib

from . import weights

Params = dict[str, Tensor]
SHOWN = "3.weight"  # the layer whose masks are drawn


class Data(NamedTuple):
    """Images (n, 1, 8, 8) in [0, 1] and labels (n,), for training and for testing."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


class Round(NamedTuple):
    """Where the model stands after a round."""

    sparsity: float
    accuracy: float
    nonzeros: int
    masks: Params


def run(seed: int, out: Path, rounds: int, sparsity: float, quick: bool) -> list[Round]:
    """Train, prune and fine-tune; print a table and write a picture.

    Args:
        seed: of the split, the initial weights and the order of the data.
        out: the path of the picture.
        rounds: how many times to prune.
        sparsity: the dead share of all weights at the end.
        quick: a few epochs and rounds only.

    Returns:
        One entry for the dense model and one for each round.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    data, console = digits(seed), Console()
    dense_epochs, epochs, rounds = (4, 1, min(rounds, 3)) if quick else (30, 6, rounds)
    bar = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"), TimeElapsedColumn()
    with Progress(*bar, console=Console(stderr=True)) as progress:
        task = progress.add_task("training", total=dense_epochs + rounds * epochs)
        with one_thread():
            results = list(prune(data, seed, rounds, sparsity, dense_epochs, epochs, progress, task))
    console.print(table(results))
    picture(results, out)
    console.print(f"Picture: {out}")
    return results


@contextmanager
def one_thread() -> Iterator[None]:
    """Batches this small gain nothing from a second thread, wait for it when a core is busy, and round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def digits(seed: int) -> Data:
    """The 1,797 digits that scikit-learn bundles, a quarter of them held out."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = train_test_split(images, labels, test_size=0.25, random_state=seed, stratify=labels)
    train, test, train_labels, test_labels = map(torch.as_tensor, parts)
    return Data((train, train_labels), (test, test_labels))


def network() -> nn.Sequential:
    """A conv net of 38,282 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def prune(
    data: Data, seed: int, rounds: int, sparsity: float, dense_epochs: int, epochs: int, progress: Any, task: Any
) -> Iterator[Round]:
    """The main job: train, then prune a little more and fine-tune, round after round."""
    torch.manual_seed(seed)
    model = network()
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    prunable = list(weights(model))
    masks = masklib.identity({name: params[name] for name in prunable})
    train(model, params, masks, data, dense_epochs, lambda: progress.advance(task))
    yield measured(model, params, masks, data)
    for step in range(1, rounds + 1):
        target = sparsity * (1 - (1 - step / rounds) ** 3)  # cubic: Zhu & Gupta 2017
        masks = masklib.l1_unstructured({name: params[name] for name in prunable}, masks, sparsity=target)
        progress.update(task, description=f"{100 * target:.1f} % sparse")
        train(model, params, masks, data, epochs, lambda: progress.advance(task))
        yield measured(model, params, masks, data)


def train(model: nn.Module, params: Params, masks: Params, data: Data, epochs: int, tick: Any) -> None:
    """Fit the parameters in place; dead weights get no gradient, and the model does not see them."""
    images, labels = data.train
    leaves = {name: p.requires_grad_() for name, p in params.items()}
    optimizer = torch.optim.AdamW(leaves.values(), lr=2e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            scores = functional_call(model, masklib.apply(leaves, masks), (images[batch],))
            nn.functional.cross_entropy(scores, labels[batch]).backward()
            optimizer.step()
        tick()
    for p in params.values():
        p.requires_grad_(False)


def measured(model: nn.Module, params: Params, masks: Params, data: Data) -> Round:
    """Accuracy on the held-out digits, and what is left of the weights."""
    images, labels = data.test
    with torch.no_grad():
        right = functional_call(model, masklib.apply(params, masks), (images,)).argmax(1) == labels
    return Round(masklib.sparsity(masks).item(), right.double().mean().item(), int(masklib.count(masks)), dict(masks))


def table(results: list[Round]) -> Table:
    """Round, sparsity, accuracy, non-zeros."""
    shown = Table(title="Global magnitude pruning")
    for column in ("round", "sparsity", "accuracy", "non-zeros"):
        shown.add_column(column, justify="right")
    for index, r in enumerate(results):
        name = str(index) if index else "dense"
        shown.add_row(name, f"{100 * r.sparsity:.1f} %", f"{100 * r.accuracy:.1f} %", f"{r.nonzeros:,}")
    return shown


def picture(results: list[Round], out: Path) -> None:
    """Accuracy against sparsity, above the masks of one layer across the rounds."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    curve, strip = cast(Any, figure.subfigures(2, 1, height_ratios=(3, 2)))
    axes = curve.subplots()
    axes.plot([100 * r.sparsity for r in results], [100 * r.accuracy for r in results], "o-", color="#20639b")
    axes.axhline(100 * results[0].accuracy, color="grey", linewidth=1, linestyle=":", label="dense")
    axes.set(xlabel="sparsity (% of weights that are zero)", ylabel="accuracy on held-out digits (%)")
    axes.set_title("Global magnitude pruning of a small conv net, with fine-tuning")
    low = min(r.accuracy for r in results)
    axes.set_ylim(min(90.0, 100 * low - 1), 100)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    for panel, (index, r) in zip(np.atleast_1d(strip.subplots(1, len(results))), enumerate(results)):
        mask = r.masks[SHOWN]
        panel.imshow(
            mask.flatten(1).t().numpy(), cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest", aspect="auto"
        )
        panel.set_title(f"round {index}" if index else "dense", fontsize=9)
        panel.set_xlabel(f"{100 * masklib.sparsity(mask):.0f} % zero", fontsize=8)
        panel.set(xticks=[], yticks=[])
    strip.suptitle(
        "Who is alive in the second convolution: 32 filters across, their 16 x 3 x 3 weights down", fontsize=10
    )
    figure.savefig(out, dpi=130)
